"""The folders of configs that a recorded command names. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Sequence

_DIRECTORY = ("--config-dir", "-cd")
_SEARCH_PATH = "hydra.searchpath"


def folder_words(command: Sequence[str]) -> list[str]:
    """The words of a command that name folders of configs, as they were typed."""
    words = []
    for word, after in zip(command, [*command[1:], ""], strict=False):
        key, equals, _ = word.partition("=")
        if key in (*_DIRECTORY, _SEARCH_PATH):
            words += [word] if equals else [word, after]
    return words


def search_path(command: Sequence[str]) -> str | None:
    """The same folders as one override, `hydra.searchpath=[...]`, so that --config-dir is free for another; None without any."""
    words = folder_words(command)
    found = []
    for word, after in zip(words, [*words[1:], ""], strict=False):
        key, equals, value = word.partition("=")
        if key == _SEARCH_PATH:
            found += value.strip("[]").split(",")
        elif key in _DIRECTORY:
            found.append(f"file://{os.path.abspath(os.path.expanduser(value if equals else after))}")
    return f"{_SEARCH_PATH}=[{','.join(found)}]" if found else None
