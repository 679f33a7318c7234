"""Nested configs of plain dicts and lists, read by dotted paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def walk(container: Any, path: str = "", *, lists: bool = False) -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every nested entry; a mapping comes before its entries. lists: yield items too, as path[0].

    path: the path of `container` itself, which is not yielded.
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
    """Dotted path -> value, for every value except non-empty mappings; a list is one value."""
    return {below: value for below, value in walk(container, path) if not (isinstance(value, Mapping) and value)}
