"""Learning curves: one number a run for tests, and bands over seeds for the eye. S seeds, K steps."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array


def area_under_curve(steps: Array, values: Array) -> float:
    """Mean height of a learning curve over its steps, by trapezoids: in units of the score. steps, values: [K]."""
    points, heights = np.asarray(steps, float), np.asarray(values, float)
    if len(points) == 0 or not np.isfinite(heights).all():
        return float("nan")
    span = points[-1] - points[0]
    if span <= 0:
        return float(heights[-1])
    return float(((heights[1:] + heights[:-1]) / 2 * np.diff(points)).sum() / span)


def align(curves: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Curves of single runs on their common grid: every step that any of them has. Returns steps [K], values [S, K], NaN
    where a run was not evaluated."""
    grid = np.unique(np.concatenate([np.asarray(steps) for steps, _ in curves])) if curves else np.array([])
    values = np.full((len(curves), len(grid)), np.nan)
    for row, (steps, heights) in enumerate(curves):
        values[row, np.searchsorted(grid, steps)] = heights
    return grid, values


def band(values: Array, *, level: float = 0.95) -> tuple[Array, Array, Array]:
    """Mean and pointwise t interval at each step, over the runs that have it; the band is NaN below two runs.

    values: [S, K]; returns mean, low, high [K].
    """
    count = np.isfinite(values).sum(axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # steps without a run are NaN, as said above
        centre = np.nanmean(values, axis=0)
        error = np.nanstd(values, axis=0, ddof=1) / np.sqrt(count)
    half = np.where(count >= 2, special.stdtrit(np.maximum(count - 1, 1), 0.5 + level / 2) * error, np.nan)
    return centre, centre - half, centre + half
