"""Whether a value of a config is of the type that a class says."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_PLURALS = {"a whole number": "whole numbers", "a number": "numbers", "text": "texts"}


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, a plain value out of YAML, is of type `hint`; nodes with a `_target_` and unknown types pass."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)) or (isinstance(value, Mapping) and "_target_" in value):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if hint in (None, type(None)):
        return value is None
    if not isinstance(origin or hint, type):
        return True
    return _fits_class(value, origin or hint, arguments)


def _fits_class(value: Any, kind: type, arguments: tuple[Any, ...]) -> bool:
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if issubclass(kind, enum.Enum):
        return value in [member.value for member in kind] or value in kind.__members__
    if issubclass(kind, str):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        of = arguments[1] if len(arguments) == 2 else Any
        return isinstance(value, Mapping) and all(fits(item, of) for item in value.values())
    if issubclass(kind, tuple) and arguments and arguments[-1] is not Ellipsis:
        return isinstance(value, (list, tuple)) and len(value) == len(arguments) and all(map(fits, value, arguments))
    if issubclass(kind, (Sequence, set, frozenset)) or kind.__module__ == "collections.abc":
        of = arguments[0] if arguments else Any
        is_list = isinstance(value, (list, tuple)) and all(fits(item, of) for item in value)
        return is_list or kind.__name__ == "Callable"
    # any other class can only come from a node with a _target_
    return value is not None and not isinstance(value, (bool, int, float, str, list, Mapping))


def described(hint: Any) -> str:
    """A type in the words of a message."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NAMES:
        return _NAMES[hint]
    if origin in (Union, types.UnionType):
        plain = [argument for argument in arguments if argument in _NAMES]
        return " or ".join(described(argument) for argument in plain or arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in arguments)
    if origin in (list, tuple, Sequence, set, frozenset):
        items = [argument for argument in arguments if argument is not Ellipsis]
        of = " and ".join(dict.fromkeys(_PLURALS.get(name, name) for name in map(described, items)))
        count = f"{len(items)} " if origin is tuple and len(items) == len(arguments) and of in _PLURALS.values() else ""
        return f"a list of {count}{of}" if of else "a list"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return f"a node whose _target_ is a {getattr(hint, '__name__', hint)}"


def shown(value: Any) -> str:
    """A value as one types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
