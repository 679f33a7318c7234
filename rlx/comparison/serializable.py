"""The values of a comparison: conversion to JSON, and checks for usable numbers."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np


class Serializable:
    """Base of the dataclasses in comparison.json."""

    def to_dict(self) -> dict[str, Any]:
        """Field -> plain value, as in comparison.json; non-finite numbers are null."""
        return {item.name: to_plain(getattr(self, item.name)) for item in dataclasses.fields(self)}  # type: ignore[arg-type]


def to_plain(value: Any) -> Any:
    """Dataclasses, arrays and tuples as JSON types; non-finite numbers as null."""
    kind = type(value)
    if kind is float:  # the most frequent types in a large comparison come first
        return value if math.isfinite(value) else None
    if value is None or kind in (int, str, bool):
        return value
    if isinstance(value, Serializable):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [to_plain(item) for item in value.tolist()]
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (enum.Enum, os.PathLike)):
        return str(value)
    return value


# Values of a record that statistics can use.


def is_usable(value: float) -> bool:
    """Whether statistics can use a number: it and its square are finite."""
    return math.isfinite(value) and abs(value) < 1e100


def usable(value: float) -> float:
    """The value; NaN if statistics cannot use it."""
    return float(value) if is_usable(value) else math.nan


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a number; booleans and integers beyond 64 bits are not."""
    if type(value) is float:
        return True
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**62
    return isinstance(value, float)


def number_or(value: Any, otherwise: float) -> float:
    """The value; `otherwise` if it is not a number."""
    return float(value) if is_number(value) else otherwise


def usable_or_none(value: Any) -> float | None:
    """The value; None if statistics cannot use it."""
    return float(value) if is_number(value) and is_usable(value) else None
