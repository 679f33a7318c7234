"""Nested configs of plain dicts and lists, read by dotted paths, and their settings in names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

MOST_OF_NAME = 120  # characters of one setting in a name


def walk(container: Any, path: str = "", *, lists: bool = False) -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every entry below, a mapping before its own entries. lists: items too, as path[0].

    path: of `container` itself, which is not yielded.
    """
    if isinstance(container, Mapping):
        entries = [(f"{path}.{key}" if path else str(key), value) for key, value in container.items()]
    else:
        is_list = lists and isinstance(container, list | tuple)
        entries = [(f"{path}[{index}]", value) for index, value in enumerate(container)] if is_list else []
    for below, value in entries:
        yield below, value
        yield from walk(value, below, lists=lists)


def leaves(container: Any, path: str = "") -> dict[str, Any]:
    """Dotted path -> value, of every value that is no mapping with entries; a list is one value."""
    return {below: value for below, value in walk(container, path) if not (isinstance(value, Mapping) and value)}


def shortened(text: str) -> str:
    """A text for a name: one of more than `MOST_OF_NAME` characters by its beginning, its length, and a hash of all of it."""
    if len(text) <= MOST_OF_NAME:
        return text
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{text[: MOST_OF_NAME // 2]}...({len(text)} characters, {digest})".replace(" ", "_")
