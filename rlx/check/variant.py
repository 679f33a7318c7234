"""Hyperparameters in a tree of dataclasses: their values, other legal values, and which of them are tested."""

from __future__ import annotations

import copy
import inspect
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from functools import lru_cache
from itertools import islice
from typing import Any

from rlx.algorithm.base import Algorithm
from rlx.config.targets import Parameter, parameters_of
from rlx.errors import RlxError
from rlx.fields import Allowed, Choice, range_of
from rlx.policy.reference import MovingReference

MOST_ROWS = {"pairs_per_step": 12, "prompts_per_step": 6}  # rows of a draw for the laws, at most


def is_node(value: Any) -> bool:
    """Whether a value is a dataclass, which holds hyperparameters of its own."""
    return is_dataclass(value) and not isinstance(value, type)


def plain_fields(owner: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of every plain hyperparameter in a tree of dataclasses; derived fields are left out."""
    for item in fields(owner) if is_node(owner) else ():
        if not item.init:
            continue
        value = getattr(owner, item.name)
        for key, child in children(value) or [("", value)]:
            name = f"{path}{item.name}{key}"
            if is_node(child):
                yield from plain_fields(child, f"{name}.")
            else:
                yield name, child


def children(value: Any) -> list[tuple[str, Any]]:
    """List (".key", value) of each entry of a mapping, or of a list of dataclasses; return an empty list for other values."""
    if isinstance(value, Mapping):
        return [(f".{key}", child) for key, child in value.items()]
    if isinstance(value, (list, tuple)) and value and all(is_node(child) for child in value):
        return [(f".{index}", child) for index, child in enumerate(value)]
    return []


def variants(owner: Any, only: str | None = None) -> Iterator[tuple[str, Any]]:
    """Yield (dotted name of a hyperparameter, a copy of `owner` with another legal value of it), several for each.

    Hyperparameters of a moving reference are left out, since the training loop reads them. only: the name of one hyperparameter;
    None: all.
    """
    kind: type = type(owner)
    hints = _parameters(kind)
    for item in fields(owner):
        if not item.init or not _leads_to(item.name, only):
            continue
        value = getattr(owner, item.name)
        if is_node(value):
            for name, changed in variants(value, None if only is None else only[len(item.name) + 1 :]):
                yield from _made(f"{item.name}.{name}", owner, item.name, changed)
        elif children(value):
            yield from _variants_within(owner, item.name, value, only)
        else:
            hint = hints[item.name].hint if item.name in hints else Any
            for other in others(value, range_of(type(owner), item.name), hint):
                yield from _made(item.name, owner, item.name, other)


def together(owner: Any, names: Sequence[str], place: int) -> Any | None:
    """Return a copy of `owner` in which each of these hyperparameters has the value that `variants` yields for it at `place`.

    Return None if one of them has no such value in combination with the others.
    """
    for name in names:
        changed = next(islice((changed for _, changed in variants(owner, name)), place, None), None)
        if changed is None:
            return None
        owner = changed
    return owner


@lru_cache(maxsize=256)
def _parameters(kind: type) -> Mapping[str, Parameter]:
    return parameters_of(kind) or {}


def _leads_to(path: str, name: str | None) -> bool:
    """Whether the hyperparameter of this dotted name lies at or below a path; True if name is None."""
    return name is None or name == path or name.startswith(f"{path}.")


def _variants_within(owner: Any, field: str, value: Any, only: str | None) -> Iterator[tuple[str, Any]]:
    for number, (key, node) in enumerate(children(value)):
        path = f"{field}{key}"
        if not is_node(node) or isinstance(node, MovingReference) or not _leads_to(path, only):
            continue
        for name, changed in variants(node, None if only is None else only[len(path) + 1 :]):
            if isinstance(value, Mapping):
                whole: Any = {**value, key[1:]: changed}
            else:
                whole = type(value)([*value[:number], changed, *value[number + 1 :]])
            yield from _made(f"{field}{key}.{name}", owner, field, whole)


def _made(name: str, owner: Any, field: str, value: Any) -> Iterator[tuple[str, Any]]:
    try:
        yield name, replace(owner, **{field: value})
    except (RlxError, ValueError, TypeError, AssertionError):  # not legal, alone or with the other values
        return


def others(value: Any, allowed: Allowed | None, hint: Any) -> list[Any]:
    """Return other values that the range or the type allows, close ones and distant ones."""
    if isinstance(allowed, Choice):
        return [name for name in allowed.names if name != value]
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    candidates: list[Any] = [
        option for kind in kinds if typing.get_origin(kind) is typing.Literal for option in typing.get_args(kind)
    ]
    if isinstance(value, Enum):
        candidates += list(type(value))
    elif isinstance(value, bool):
        candidates.append(not value)
    elif isinstance(value, int):
        candidates += [value + 1, value - 1, 2 * value, max(1, value // 2), 100 * max(1, value), 1000 * value]
        candidates += [value + 0.5, value / 2] if float in kinds else []
        candidates += [1, 2]  # capacities that a few steps fill
    elif isinstance(value, float):
        candidates += [2 * value, value / 2, value + 0.1, value / 100, 100 * value, value - 0.1, 0.5, 1.5, 1e-6 * value]
    elif isinstance(value, (list, tuple)) and value and all(isinstance(item, (int, float)) for item in value):
        candidates += [type(value)(factor * item for item in value) for factor in (2, 3)]
    elif value is None:
        candidates += [2, 1] if int in kinds else []
        candidates += [0.01, 5.0, 0.5, 1e-4, 1e-6] if float in kinds else []  # small and large first: pairs use only a few
        candidates += [True] if bool in kinds else []
    if value is not None and type(None) in kinds:
        candidates.append(None)
    if isinstance(value, (int, float)) and value > 0:  # a hyperparameter must have an effect at positive values
        candidates = [
            other for other in candidates if not isinstance(other, (int, float)) or isinstance(other, bool) or other > 0
        ]
    different = [other for other in candidates if other != value or isinstance(other, bool) is not isinstance(value, bool)]
    return [
        other
        for number, other in enumerate(different)
        if other not in different[:number] and (allowed is None or other in allowed)
    ]


def small(owner: Any) -> Any:
    """Return the algorithm with fewer rows in a draw; its laws hold for any number of rows."""
    changes: dict[str, Any] = {}
    for item in fields(owner):
        value = getattr(owner, item.name)
        if item.name in MOST_ROWS and isinstance(value, int):
            changes[item.name] = min(value, MOST_ROWS[item.name])
        elif isinstance(value, Mapping):
            changes[item.name] = {key: small(node) if is_dataclass(node) else node for key, node in value.items()}
        elif is_node(value):
            changes[item.name] = small(value)
    changes = {name: value for name, value in changes.items() if repr(value) != repr(getattr(owner, name))}
    try:
        return replace(owner, **changes) if changes else owner
    except (RlxError, TypeError, ValueError):  # its other settings do not allow so few rows
        return owner


def mentioned(kind: type) -> set[str]:
    """Return all attribute names that occur in the code of a class's own modules."""
    found: set[str] = set()
    modules = {ancestor.__module__ for ancestor in kind.__mro__} - {"rlx.algorithm.base", "builtins", "typing", "abc"}
    for module in modules:
        for value in list(vars(sys.modules.get(module, kind)).values()):
            if isinstance(value, type) and issubclass(value, Algorithm) and not issubclass(kind, value):
                continue  # another algorithm in the same file
            owners = [value, *vars(value).values()] if isinstance(value, type) and value.__module__ in modules else [value]
            waiting = [code for owner in owners for code in _codes(owner)]
            while waiting:
                code = waiting.pop()
                found.update(
                    (*code.co_names, *(item for item in code.co_consts if isinstance(item, str) and item.isidentifier()))
                )
                waiting += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return found


def _codes(value: Any) -> list[types.CodeType]:
    """Return the code objects of a function, method or property, except those that the dataclass decorator generated."""
    functions = [value.fget] if isinstance(value, property) else [getattr(value, "__func__", value)]
    codes = [getattr(inspect.unwrap(function), "__code__", None) for function in functions if callable(function)]
    return [code for code in codes if isinstance(code, types.CodeType) and not code.co_filename.startswith("<")]


def watched(owner: Any, seen: set[str], path: str = "") -> Any:
    """Return a copy of a tree of dataclasses that adds the dotted name of each field to `seen` when it is read.

    All fields of a class that cannot be watched (one with slots) count as read.
    """
    kind = type(owner)
    names = {item.name for item in fields(owner)}

    def look(self: Any, name: str) -> Any:
        if name in names:
            seen.add(f"{path}{name}")
        return kind.__getattribute__(self, name)  # type: ignore[call-arg]

    twin = copy.copy(owner)
    for name in names:
        value = getattr(owner, name)
        with suppress(AttributeError, TypeError):
            if is_node(value):
                object.__setattr__(twin, name, watched(value, seen, f"{path}{name}."))
            elif isinstance(value, Mapping):
                nodes = {
                    key: watched(node, seen, f"{path}{name}.{key}.") if is_node(node) else node for key, node in value.items()
                }
                object.__setattr__(twin, name, nodes)
    try:
        object.__setattr__(
            twin, "__class__", type(kind.__name__, (kind,), {"__getattribute__": look, "__module__": kind.__module__})
        )
    except TypeError:
        seen.update(f"{path}{name}" for name in names)
    with suppress(Exception):
        twin.__post_init__()
    return twin
