"""Records which attributes of a tree of dataclasses are read, and by which phase of a training step."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cached_property, lru_cache
from typing import Any

PLAIN = (bool, int, float, str, bytes, list, tuple, set, frozenset, Enum, type(None))
HARNESS = {  # functions that read every field but do not use the values
    ("rlx.fields", "check_hyperparameters"),
    ("rlx.loss.state", "walk"),
    ("rlx.loss.state", "<listcomp>"),
}
COPIES = {"copy", "copyreg", "functools", __name__}  # modules that read __dict__ only to copy it
START, DRAW, UPDATES, GRADIENT, UPDATE, VALIDATE = "start", "draw", "updates", "gradient", "update", "validate"
OTHER = "other"  # a phase that no run reuses


def attributes_of(owner: Any) -> dict[str, Any]:
    """Return dotted path -> value of every attribute in a tree of dataclasses, mappings and lists.

    A node that occurs twice is at its first path, and its value is its class and keys. Values of cached properties are left out.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def walk(value: Any, path: str) -> None:
        inner = _inner(value)
        if inner is None:
            found[path] = value
        elif id(value) not in seen:
            seen.add(id(value))
            found[path] = _Node(type(value), tuple(inner))
            for key, child in inner.items():
                walk(child, f"{path}.{key}")

    walk(owner, "")
    return found


@dataclass(frozen=True)
class _Node:
    kind: type
    keys: tuple[str, ...]


def _inner(value: Any) -> dict[str, Any] | None:
    """Return the children of a node of a tree; None for a leaf."""
    if is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
        kept = _cached(type(value))
        return {name: item for name, item in vars(value).items() if name not in kept}
    if type(value) is dict:
        return {str(key): item for key, item in value.items()}
    if type(value) in (list, tuple) and any(_inner(item) is not None for item in value):
        return {str(index): item for index, item in enumerate(value)}
    return None


@lru_cache(maxsize=256)
def _cached(kind: type) -> frozenset[str]:
    """Return the names of a class's cached properties."""
    return frozenset(name for each in kind.__mro__ for name, item in vars(each).items() if isinstance(item, cached_property))


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """Return the paths whose values differ in two trees, see `attributes_of`."""
    return {path for path in {**one, **other} if path not in one or path not in other or not _same(one[path], other[path])}


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, _Node):
        return bool(one == other)
    return type(one) is type(other) and isinstance(one, PLAIN) and repr(one) == repr(other)


class Reads:
    """The paths of an algorithm that each phase reads. names: the dotted names of all fields that any code read."""

    def __init__(self) -> None:
        self.phase = START
        self.of: dict[str, set[str]] = {}
        self.names: set[str] = set()

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Attribute reads inside the context to this phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def note(self, path: str, caller: Any) -> None:
        """Record that the code of the frame `caller` read an attribute."""
        self.names.add(path.removeprefix("."))
        module = str(caller.f_globals.get("__name__"))
        if not module.startswith("rlx.check.") and (module, caller.f_code.co_name) not in HARNESS:
            self.of.setdefault(self.phase, set()).add(path)


class UnwatchableError(Exception):
    """The reads of a node cannot be recorded: its class has slots, or it is a mapping of its own class."""


def watched_tree(owner: Any, reads: Reads) -> Any:
    """Return a copy of a tree of dataclasses, in its current state, that records each attribute read.

    Raises UnwatchableError.
    """
    made: dict[int, Any] = {}

    def twin_of(value: Any, path: str) -> Any:
        inner = _inner(value)
        if inner is None:
            if isinstance(value, Mapping) and any(is_dataclass(item) for item in value.values()):
                raise UnwatchableError(path)
            return value
        if id(value) in made:
            return made[id(value)]
        if isinstance(value, dict):
            made[id(value)] = twin = {}
            twin.update({key: twin_of(item, f"{path}.{key}") for key, item in value.items()})
            return twin
        if isinstance(value, (list, tuple)):
            return type(value)(twin_of(item, f"{path}.{index}") for index, item in enumerate(value))
        made[id(value)] = twin = copy.copy(value)
        vars(twin).clear()
        for name, item in inner.items():
            vars(twin)[name] = twin_of(item, f"{path}.{name}")
        try:
            object.__setattr__(twin, "__class__", _watching(type(value), path, frozenset(inner), reads))
        except TypeError as error:
            raise UnwatchableError(path) from error
        return twin

    return twin_of(owner, "")


def _watching(kind: type, path: str, names: frozenset[str], reads: Reads) -> type:
    def look(self: Any, name: str) -> Any:
        if name in names:
            reads.note(f"{path}.{name}", sys._getframe(1))
        elif name == "__dict__" and sys._getframe(1).f_globals.get("__name__") not in COPIES:
            for each in names:
                reads.note(f"{path}.{each}", sys._getframe(1))
        return kind.__getattribute__(self, name)  # type: ignore[call-arg]

    return type(kind.__name__, (kind,), {"__getattribute__": look, "__module__": kind.__module__})
