"""Hyperparameters with ranges: the range stands at the field, is checked on construction, and is shown on the card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from rlx.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers a hyperparameter may take; `advice` ends the error message."""

    above: float = -math.inf
    at_least: float = -math.inf
    below: float = math.inf
    at_most: float = math.inf
    advice: str = ""
    optional: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        if self.whole and not isinstance(value, int):
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
        return " ".join([kind, " and ".join(bounds)]).strip() + (" or null" if self.optional else "")


@dataclass(frozen=True)
class Choice:
    """The names a hyperparameter may take."""

    names: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


def within(
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    below: float = math.inf,
    at_most: float = math.inf,
    advice: str = "",
    optional: bool = False,
    whole: bool = False,
    default: Any = MISSING,
) -> Any:
    """A dataclass field whose values must lie in this range; a default only where a base class needs one."""
    allowed = Range(above, at_least, below, at_most, advice, optional, whole)
    return field(default=default, metadata={"range": allowed})


def one_of(names: Sequence[str], *, default: Any = MISSING) -> Any:
    """A dataclass field whose value must be one of these names; a default only where a base class needs one."""
    return field(default=default, metadata={"range": Choice(tuple(names))})


def check_hyperparameters(owner: Any) -> None:
    """Refuse a dataclass instance one of whose fields lies outside of its range."""
    for item in fields(owner):
        allowed, value = item.metadata.get("range"), getattr(owner, item.name)
        if allowed is None or value in allowed:
            continue
        message = f"{item.name} of {type(owner).__name__} is {value!r}, but must be {allowed}"
        if isinstance(allowed, Range) and allowed.advice:
            message += f"; {allowed.advice}"
        if isinstance(allowed, Choice):
            message += "".join(f"; did you mean {near}?" for near in get_close_matches(str(value), allowed.names, n=1))
        raise ConfigError(message)
