"""Effect sizes of two algorithms over seeds, each with its interval. A positive effect is in favour of a."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array, Interval, Strata, deviation


def pooled_deviation(a: Array, b: Array) -> float:
    """The common standard deviation of two arms. a: [S], b: [S']."""
    squares = sum((len(scores) - 1) * deviation(scores) ** 2 for scores in (a, b) if len(scores) > 1)
    return math.sqrt(squares / (len(a) + len(b) - 2))


def small_sample_factor(df: float) -> float:
    """What makes Cohen's d unbiased for normal scores: Hedges' J, in the usual form 1 - 3 / (4 df - 1)."""
    return 1 - 3 / (4 * df - 1)


def _pooled(a: Strata, b: Strata) -> tuple[float, float, float]:
    """Common deviation within tasks, its degrees of freedom, and the standard error of the difference in such deviations."""
    degrees = [len(x) + len(y) - 2 for x, y in zip(a, b, strict=True)]
    total = sum(degrees)
    if total == 0:
        return 0.0, 0.0, 0.0
    squares = sum(d * pooled_deviation(x, y) ** 2 for d, x, y in zip(degrees, a, b, strict=True) if d)
    unit = math.sqrt(sum(1 / len(x) + 1 / len(y) for x, y in zip(a, b, strict=True))) / len(a)
    return math.sqrt(squares / total), float(total), unit


def hedges_g(a: Strata, b: Strata) -> float | None:
    """Difference of means in pooled deviations within tasks, corrected for small samples; None without any spread.

    a, b: one [S_m] per task.
    """
    spread, df, _ = _pooled(a, b)
    return None if spread == 0 else _difference(a, b) / spread * small_sample_factor(df)


def _difference(a: Strata, b: Strata) -> float:
    return float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(a, b, strict=True)]))


def hedges_g_interval(
    a: Strata, b: Strata, *, level: float = 0.95, error: float | None = None, df: float | None = None
) -> Interval | None:
    """Interval of Hedges' g by inversion of the noncentral t, exact for normal scores of equal spread.

    a, b: one [S_m] per task. error, df: of the difference, where pairs of runs make it another one.
    """
    spread, degrees, unit = _pooled(a, b)
    if spread == 0 or (error is not None and error == 0):
        return None
    if error is not None:
        unit = error / spread
    statistic, freedom = _difference(a, b) / spread / unit, degrees if df is None else df
    scale = unit * small_sample_factor(degrees)
    low, high = (_noncentrality(statistic, freedom, probability) for probability in ((1 + level) / 2, (1 - level) / 2))
    return Interval(low * scale, high * scale, level, "noncentral t")


def _noncentrality(statistic: float, df: float, probability: float) -> float:
    """The shift of a noncentral t under which `statistic` is its `probability` quantile."""
    if statistic < 0:
        return -_noncentrality(-statistic, df, 1 - probability)
    if statistic > 1000:  # there only the denominator of t matters, a chi
        return statistic * float(np.sqrt(special.chdtri(df, probability) / df))
    return float(special.nctdtrinc(df, probability, statistic))


def probability_of_improvement(a: Strata, b: Strata) -> float:
    """Chance that a run of a beats a run of b on the same task, ties counting half, averaged over tasks."""
    return float(np.mean([_wins(np.asarray(x, float), np.asarray(y, float)) for x, y in zip(a, b, strict=True)]))


def _wins(a: Array, b: Array) -> float:
    ordered = np.sort(b)
    below, at_most = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return float((below + at_most).mean() / 2 / len(b))


def probability_of_improvement_interval(a: Strata, b: Strata, *, level: float = 0.95) -> Interval | None:
    """Newcombe's score interval (2006, doi:10.1002/sim.2324, method 5): no width 0 when all of a beat all of b.

    a, b: one [S_m] per task; over tasks, the squared widths of the tasks' intervals add on each side. None below 2 runs.
    """
    if min(len(scores) for scores in (*a, *b)) < 2:
        return None
    low = high = 0.0
    for x, y in zip(a, b, strict=True):
        estimate = _wins(np.asarray(x, float), np.asarray(y, float))
        below, above = _newcombe(estimate, len(x), len(y), level)
        low, high = low + (estimate - below) ** 2, high + (above - estimate) ** 2
    centre = probability_of_improvement(a, b)
    low, high = centre - math.sqrt(low) / len(a), centre + math.sqrt(high) / len(a)
    return Interval(max(low, 0.0), min(high, 1.0), level, "Newcombe's score interval")


def _newcombe(estimate: float, size_a: int, size_b: int, level: float) -> tuple[float, float]:
    middle = (size_a + size_b) / 2 - 1
    critical = float(special.ndtri(0.5 + level / 2))

    def distance(value: float) -> float:
        spread = value * (1 - value) / (size_a * size_b) * (1 + middle * ((1 - value) / (2 - value) + value / (1 + value)))
        return abs(value - estimate) - critical * math.sqrt(max(spread, 0.0))

    low = _root(distance, 0.0, estimate) if estimate > 0 else 0.0
    return low, _root(distance, 1.0, estimate) if estimate < 1 else 1.0


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    """Where `distance` turns from positive (outside) to negative (inside), by halving."""
    for _ in range(50):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if distance(middle) > 0 else (outside, middle)
    return (outside + inside) / 2
