"""Quotes for Hydra what people type unquoted: its grammar refuses `prompt=12+34=`, `where=score<0.5`, a path with a space."""

from __future__ import annotations

import os
import re

_TEXT_KEYS = {"prompt", "where", "fail_if", "out", "resume", "rerun"}
_PATH_ENDINGS = ("path", "_dir", ".dir", "_file")
_SWEEP = re.compile(r"^(choice|glob|range|interval|shuffle|sort|tag|extend_list)\s*\(.*\)$", re.DOTALL)


_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*", re.ASCII)


def is_text_key(key: str) -> bool:
    """Whether what follows this key is text or a path, never a number, a list or an expression of Hydra's."""
    leaf = key.lstrip("+").rpartition(".")[2]
    return leaf in _TEXT_KEYS or key.endswith(_PATH_ENDINGS)


def quote_override(override: str, *, multirun: bool = False) -> str:
    """The same override, its value in quotes where the key takes text or a path. With -m, commas separate values."""
    key, equals, value = override.partition("=")
    if not equals or not is_text_key(key) or key == "hydra.searchpath" or _stands_for_itself(value):
        return override
    if multirun and _SWEEP.match(value):
        return override
    values = value.split(",") if multirun else [value]
    is_path = key.endswith(_PATH_ENDINGS) or key.lstrip("+") in ("out", "resume", "rerun")
    return f"{key}={','.join(quoted(part, is_path=is_path) for part in values)}"


def _stands_for_itself(value: str) -> bool:
    """Empty, null, a list or in quotes already."""
    is_quoted = len(value) >= 2 and value[0] in "'\"" and value[-1] == value[0]
    return value in ("", "null") or is_quoted or (value.startswith("[") and value.endswith("]"))


def is_plain(value: str) -> bool:
    """Whether Hydra reads the value as this very text without quotes: a usual path or word, no number and no null."""
    if not _PLAIN.fullmatch(value) or value.lower() in ("true", "false", "null", "nan", "inf"):
        return False
    try:
        float(value)
    except ValueError:
        return True
    return False


def quoted(value: str, *, is_path: bool = False) -> str:
    """A value as a string of Hydra's grammar, in quotes where it needs them.

    In a path ~ is the home directory and ${...} stays an interpolation.
    """
    if is_plain(value):
        return value
    if is_path:
        value = os.path.expanduser(value)
    elif "${" in value:
        value = value.replace("${", "\\${")
    value = re.sub(r"(\\*)'", r"\1\1\\'", value)
    value = re.sub(r"(\\+)$", r"\1\1", value)
    return f"'{value}'"
