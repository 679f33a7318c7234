"""The values that a config key may take, and frozen dataclasses made from functions.

A range is declared with its key: `beta: float = within(above=0)` for a dataclass field, or
`beta: Annotated[float, within(above=0)] = 0.1` for a field or a function argument. It is enforced when a config is checked
and when the object is created, and `rlx info` shows it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, field, fields, make_dataclass
from difflib import get_close_matches
from functools import cache, partial, wraps
from inspect import signature
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar, cast, get_type_hints, overload

from rlx.errors import ConfigError

LEAST_NORMAL = 2.0**-126  # the smallest normal float32, the type in which models compute
LEAST_TEMPERATURE = 1e-30  # logits of 1e8 divided by this are still finite in float32


@dataclass(frozen=True)
class Range:
    """The numbers that a key may take: finite numbers within these bounds, and the values in `also`.

    optional: allow null too. each: the value is a list of such numbers. advice: the end of the error message.
    """

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    advice: str = ""
    optional: bool = False
    whole: bool = False
    also: tuple[object, ...] = ()
    each: bool = False

    def __contains__(self, value: object) -> bool:
        if self.each and isinstance(value, list | tuple):
            return all(self._has(item) for item in value)
        return (self.optional and value is None) if self.each else self._has(value)

    def _has(self, value: object) -> bool:
        if value is None:
            return self.optional
        if any(value == other and type(value) is type(other) for other in self.also):
            return True
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            return False
        if (self.whole and not isinstance(value, int)) or vanishes(value):
            return False
        return self.above < value < self.below and self.at_least <= value <= self.at_most

    def __str__(self) -> str:
        bounds = [
            text
            for limit, text in (
                (self.above, f"above {self.above:g}"),
                (self.at_least, f"at least {self.at_least:g}"),
                (self.below, f"below {self.below:g}"),
                (self.at_most, f"at most {self.at_most:g}"),
            )
            if math.isfinite(limit)
        ]
        kind = "a whole number" if self.whole else "a finite number"
        others = [*map(str, self.also), *(["null"] if self.optional else [])]
        text = " or ".join([" ".join([kind, " and ".join(bounds)]).strip(), *others])
        return f"a list, each {text}" if self.each else text


def vanishes(value: Any) -> bool:
    """Whether a number is not 0 but so small that float32 rounds it to 0 or stores it with fewer digits."""
    return isinstance(value, float) and 0 < abs(value) < LEAST_NORMAL


def _is_finite(value: float) -> bool:
    """Whether a number is finite as a float; an integer of hundreds of digits is not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


@dataclass(frozen=True)
class Choice:
    """The names that a key may take. each: the value is a list of such names. optional: allow null too."""

    names: tuple[str, ...]
    each: bool = False
    optional: bool = False

    def __contains__(self, value: object) -> bool:
        if self.each:
            return isinstance(value, list | tuple) and all(item in self.names for item in value)
        return value in self.names or (self.optional and value is None)

    def __str__(self) -> str:
        names = (*self.names, *(["null"] if self.optional else []))
        return ("a list, each " if self.each else "") + "one of " + ", ".join(names)


@dataclass(frozen=True)
class Text:
    """Non-empty texts that begin with one of the prefixes in `begins_with`, if any are given."""

    begins_with: tuple[str, ...] = ()
    advice: str = ""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and bool(value.strip()) and (not self.begins_with or value.startswith(self.begins_with))

    def __str__(self) -> str:
        return "a text that " + (f"begins with {' or '.join(self.begins_with)}" if self.begins_with else "is not empty")


Allowed = Range | Choice | Text


def within(
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    advice: str = "",
    optional: bool = False,
    whole: bool = False,
    also: Sequence[object] = (),
    each: bool = False,
    default: Any = MISSING,
) -> Any:
    """A dataclass field whose value must lie in this `Range`; also an annotation: `Annotated[float, within(above=0)]`."""
    allowed = Range(above, at_least, below, at_most, advice, optional, whole, tuple(also), each)
    return field(default=default, metadata={"range": allowed})


def count(
    *, at_least: int = 1, at_most: float = math.inf, optional: bool = False, advice: str = "", default: Any = MISSING
) -> Any:
    """A dataclass field, or an annotation, for an integer within these bounds."""
    return within(at_least=at_least, at_most=at_most, whole=True, optional=optional, advice=advice, default=default)


def one_of(names: Sequence[str], *, each: bool = False, optional: bool = False, default: Any = MISSING) -> Any:
    """A dataclass field whose value must be one of these names; also an annotation: `Annotated[str, one_of(...)]`."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    return field(metadata={"range": Choice(tuple(names), each, optional)}, **made)


def non_empty(*, begins_with: Sequence[str] = (), advice: str = "", default: Any = MISSING) -> Any:
    """A dataclass field, or an annotation, for a non-empty text."""
    return field(default=default, metadata={"range": Text(tuple(begins_with), advice)})


def range_in(hint: Any) -> Allowed | None:
    """The range in an annotation `Annotated[float, within(...)]`; None if it has none."""
    return next((note.metadata["range"] for note in getattr(hint, "__metadata__", ()) if isinstance(note, Field)), None)


def range_of(kind: type, name: str) -> Allowed | None:
    """The range of a dataclass field, from `= within(...)` or its annotation. A field that a subclass redeclares without a
    range keeps the range of the base class."""
    for ancestor in kind.__mro__:
        own = vars(ancestor).get("__dataclass_fields__", {}).get(name)
        if own is not None and "range" in own.metadata:
            return cast("Allowed", own.metadata["range"])
        if (noted := _noted(ancestor, name)) is not None:
            return noted
    return None


@cache
def _noted(kind: type, name: str) -> Allowed | None:
    """The range in the annotation of an attribute that the class itself declares."""
    hint = vars(kind).get("__annotations__", {}).get(name)
    if isinstance(hint, str):
        try:
            names = vars(sys.modules[kind.__module__])
            hint = get_type_hints(SimpleNamespace(__annotations__={name: hint}), names, include_extras=True)[name]
        except (KeyError, NameError, AttributeError):  # a name imported only for type checking: not part of a range
            return None
    return range_in(hint)


class Ranged:
    """Base of frozen dataclasses that check their fields against their ranges when an instance is created."""

    def __post_init__(self) -> None:
        check_hyperparameters(self)


def check_hyperparameters(owner: Any) -> None:
    """Raise ConfigError if a field of a dataclass instance lies outside its range."""
    for item in fields(owner):
        allowed, value = range_of(type(owner), item.name), getattr(owner, item.name)
        if allowed is not None and value not in allowed:
            said = f"{item.name} of {type(owner).__name__} is {value!r}, but must be"
            raise ConfigError(f"{said} {allowed}{mend(allowed, value)}")


def shown(value: Any) -> str:
    """A value as a user would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def texts_of(key: str, value: Any) -> list[str]:
    """The texts of a key that takes one text or a list; empty for null. Raises ConfigError for any other value."""
    items = [] if value is None else list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise ConfigError(f"{key}={shown(value)}: it must be a name, or a list of names")
    return [str(item) for item in items]


def check_range(key: str, value: Any, allowed: Allowed | None) -> None:
    """Raise ConfigError for a value outside the range of its key, or of 64 bits. key: as the user types it."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{key}={shown(value)}: a whole number has at most 64 bits; a larger one has an exponent, such as 1e30")
    if allowed is not None and value not in allowed:
        raise ConfigError(f"{key}={shown(value)}: it must be {allowed}{mend(allowed, value)}")


def mend(allowed: Allowed, value: Any) -> str:
    """The end of a message about a value that is not allowed: the advice of its range, or the nearest name."""
    if isinstance(allowed, Choice):
        wrong = [item for item in value if item not in allowed.names] if isinstance(value, list | tuple) else [value]
        return "".join(f"; did you mean {near}?" for near in get_close_matches(str((wrong or [""])[0]), allowed.names, n=1))
    advice = f"; {allowed.advice}" if allowed.advice else ""
    return f" that float32 holds, not below {LEAST_NORMAL:g}{advice}" if vanishes(value) else advice


# A frozen dataclass from one function: keyword arguments with a default become fields; the other parameters are its inputs.

T_co = TypeVar("T_co", covariant=True)


class Decorator(Protocol[T_co]):
    """Makes a class from a function. Used bare, `@preference_loss`, or with options, `@preference_loss(couples_rows=True)`."""

    @overload
    def __call__(self, function: Callable[..., Any], /) -> type[T_co]: ...
    @overload
    def __call__(self, /, **options: Any) -> Callable[[Callable[..., Any]], type[T_co]]: ...


def with_options(decorate: Callable[..., type[T_co]]) -> Decorator[T_co]:
    """Turn `decorate(function, **options)` into a decorator that can be used bare or with options."""

    @wraps(decorate)
    def decorator(function: Any = None, /, **options: Any) -> Any:
        unknown = [name for name in options if name not in signature(decorate).parameters]
        if unknown:
            known = [name for name, item in signature(decorate).parameters.items() if item.kind is item.KEYWORD_ONLY]
            raise ConfigError(f"@{decorate.__name__} takes no {unknown[0]}; it takes {', '.join(known) or 'no option'}")
        return partial(decorate, **options) if function is None else decorate(function, **options)

    return decorator


def reads_of(function: Callable[..., Any], names: Iterable[str]) -> tuple[str, ...]:
    """The inputs of a formula: its positional parameters, except those that have a default and are not in `names`."""
    parameters = signature(function).parameters.items()
    positional = [(name, item) for name, item in parameters if item.kind is not item.KEYWORD_ONLY]
    return tuple(name for name, item in positional if item.default is item.empty or name in names)


def class_of(function: Callable[..., Any], base: type[Any], names: Iterable[str], **variables: Any) -> type[Any]:
    """A frozen dataclass, derived from `base`, whose `formula` is the function.

    Keyword arguments and parameters with a default become the fields (`takes`), with their range `Annotated[float, within(...)]`.
    The other parameters are the inputs (`reads`); each must be in `names`. variables: class variables, and defaults of fields
    of `base`. Raises ConfigError for a parameter that is not in `names`, or a field that would hide an attribute of `base`.
    """
    parameters, reads, own = signature(function).parameters, reads_of(function, names), function.__name__
    for name, item in parameters.items():
        if item.kind in (item.VAR_POSITIONAL, item.VAR_KEYWORD):
            raise ConfigError(f"{own} takes {item}; give each of its arguments a name")
        if name in reads and name not in names:
            near = "".join(f"; did you mean {near}?" for near in get_close_matches(name, list(names), n=1))
            raise ConfigError(
                f"{own} reads {name}, and there is no such input{near or ';'} there are {', '.join(names)}; "
                f"a hyperparameter has a default, behind a star: def {own}(..., *, {name}=0.1)"
            )
        if name not in reads and (hasattr(base, name) or name in (item.name for item in fields(base))):
            raise ConfigError(f"{own} has a hyperparameter {name}, which every {base.__name__} has already; give it another name")
    inherited = {item.name: item.type for item in fields(base)}
    redefined = [(name, inherited[name], field(default=variables.pop(name))) for name in list(variables) if name in inherited]
    made = make_dataclass(
        own,
        [*redefined, *((name, *_field_of(function, name)) for name in parameters if name not in reads)],
        bases=(base,),
        namespace={
            "__qualname__": function.__qualname__,
            "formula": staticmethod(function),
            "reads": reads,
            "takes": tuple(name for name in parameters if name not in reads),
            **variables,
        },
        frozen=True,
        kw_only=True,
    )
    made.__module__ = function.__module__  # from Python 3.12 on, make_dataclass sets the caller's module
    made.__doc__ = function.__doc__ or ""
    return made


def _field_of(function: Callable[..., Any], name: str) -> tuple[Any, Any]:
    """(type, dataclass field) of a hyperparameter. Without an annotation, the default gives the type; any number gives float."""
    item = signature(function).parameters[name]
    hint, default = item.annotation, MISSING if item.default is item.empty else item.default
    if hint is item.empty:
        numeric = isinstance(default, int | float) and not isinstance(default, bool)
        hint = float if numeric else type(default) if isinstance(default, bool | str) else Any
    if isinstance(hint, str):
        try:
            hint = eval(hint, getattr(function, "__globals__", {}))
        except Exception as error:
            raise ConfigError(f"{name} of {function.__name__} is annotated {hint!r}, which fails: {error}") from error
    allowed = range_in(hint)
    metadata = {} if allowed is None else {"range": allowed}
    if isinstance(default, list | dict | set):
        return hint, field(default_factory=partial(copy, default), metadata=metadata)
    return hint, field(default=default, metadata=metadata)


def evaluated(owner: Any, given: Callable[[str], Any]) -> Any:
    """Call the formula of an instance of a class made by `class_of`: `given(name)` for inputs, its fields for the rest."""
    kind = type(owner)
    return kind.formula(*(given(name) for name in kind.reads), **{name: getattr(owner, name) for name in kind.takes})
