"""Effect sizes of two algorithms over seeds, each with its interval. A positive effect is in favour of a."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from rlx.compare.interval import Array, Interval, Strata, deviation


def pooled_deviation(a: Array, b: Array) -> float:
    """The common standard deviation of two arms. a: [S], b: [S']."""
    degrees = len(a) + len(b) - 2
    return math.sqrt(((len(a) - 1) * deviation(a) ** 2 + (len(b) - 1) * deviation(b) ** 2) / degrees)


def small_sample_factor(df: float) -> float:
    """What makes Cohen's d unbiased for normal scores: Hedges' J, in the usual form 1 - 3 / (4 df - 1)."""
    return 1 - 3 / (4 * df - 1)


def hedges_g(a: Array, b: Array) -> float | None:
    """Difference of means in pooled standard deviations, corrected for small samples; None without any spread."""
    spread = pooled_deviation(a, b)
    if spread == 0:
        return None
    return (float(np.mean(a)) - float(np.mean(b))) / spread * small_sample_factor(len(a) + len(b) - 2)


def hedges_g_interval(a: Array, b: Array, *, level: float = 0.95) -> Interval | None:
    """Interval of Hedges' g by inversion of the noncentral t, exact for normal scores of equal spread."""
    spread = pooled_deviation(a, b)
    if spread == 0:
        return None
    df = len(a) + len(b) - 2
    unit = math.sqrt(1 / len(a) + 1 / len(b))
    statistic = (float(np.mean(a)) - float(np.mean(b))) / spread / unit
    scale = unit * small_sample_factor(df)
    low, high = (_noncentrality(statistic, df, probability) for probability in ((1 + level) / 2, (1 - level) / 2))
    return Interval(low * scale, high * scale, level, "noncentral t")


def _noncentrality(statistic: float, df: float, probability: float) -> float:
    """The shift of a noncentral t under which `statistic` is its `probability` quantile."""
    if abs(statistic) > 30:  # scipy's noncentral t loses its digits there: the normal approximation of the shift
        spread = math.sqrt(1 + statistic**2 / (2 * df))
        return statistic - float(special.ndtri(probability)) * spread
    low, high = statistic - 8 * math.sqrt(1 + statistic**2 / df), statistic + 8 * math.sqrt(1 + statistic**2 / df)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if special.nctdtr(df, middle, statistic) > probability else (low, middle)
    return (low + high) / 2


def probability_of_improvement(a: Strata, b: Strata) -> float:
    """Chance that a run of a beats a run of b on the same task, ties counting half, averaged over tasks."""
    return float(np.mean([_wins(np.asarray(x, float), np.asarray(y, float)) for x, y in zip(a, b, strict=True)]))


def _wins(a: Array, b: Array) -> float:
    ordered = np.sort(b)
    below, at_most = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return float((below + at_most).mean() / 2 / len(b))


def probability_of_improvement_interval(a: Array, b: Array, *, level: float = 0.95) -> Interval:
    """Newcombe's score interval for one task (2006, doi:10.1002/sim.2324, method 5): no width 0 when all of a beat all of b.

    a: [S], b: [S'].
    """
    estimate = probability_of_improvement([a], [b])
    middle = (len(a) + len(b)) / 2 - 1
    critical = float(special.ndtri(0.5 + level / 2))

    def distance(value: float) -> float:
        spread = value * (1 - value) / (len(a) * len(b)) * (1 + middle * ((1 - value) / (2 - value) + value / (1 + value)))
        return abs(value - estimate) - critical * math.sqrt(max(spread, 0.0))

    low = _root(distance, 0.0, estimate) if estimate > 0 else 0.0
    high = _root(distance, 1.0, estimate) if estimate < 1 else 1.0
    return Interval(low, high, level, "Newcombe's score interval")


def _root(distance: Callable[[float], float], outside: float, inside: float) -> float:
    """Where `distance` turns from positive (outside) to negative (inside), by halving."""
    for _ in range(50):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if distance(middle) > 0 else (outside, middle)
    return (outside + inside) / 2
