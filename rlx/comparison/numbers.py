"""Which values of a record are numbers that statistics can use."""

from __future__ import annotations

import math
from typing import Any, TypeGuard


def is_usable(value: float) -> bool:
    """Whether one can reckon with it: finite, and not so large that its square is not."""
    return math.isfinite(value) and abs(value) < 1e100


def usable(value: float) -> float:
    """The value, NaN if one cannot reckon with it."""
    return float(value) if is_usable(value) else math.nan


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a number, and neither true or false nor of a size that no record has."""
    if type(value) is float:
        return True
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**62
    return isinstance(value, float)


def number_or(value: Any, otherwise: float) -> float:
    """The value if it is a number."""
    return float(value) if is_number(value) else otherwise


def usable_or_none(value: Any) -> float | None:
    """The value if one can reckon with it."""
    return float(value) if is_number(value) and is_usable(value) else None
