"""Rounds of a benchmark summed up: for each figure the median over the rounds, with the smallest and the largest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Spread = dict[str, Any]  # median, low, high; None where a round did not get there


def spread_of(values: Sequence[float | None]) -> Spread:
    """Median, smallest and largest; all None where any is missing, for a median of the luckier rounds would mislead."""
    if not values or any(value is None for value in values):
        return {"median": None, "low": None, "high": None}
    present = [float(value) for value in values if value is not None]
    return {"median": statistics.median(present), "low": min(present), "high": max(present)}


def summarised(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of one algorithm's rounds, each as a spread; phases by name."""
    first = rounds[0]
    figures: dict[str, Any] = {}
    for name, value in first.items():
        if isinstance(value, Mapping):
            figures[name] = {key: spread_of([one[name][key] for one in rounds]) for key in value}
        elif not isinstance(value, str):
            figures[name] = spread_of([one[name] for one in rounds])
    return figures
