"""Effect sizes of two algorithms over seeds, each with its interval. A positive effect is in favour of a."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
from scipy import special

from rlx.comparison.statistics.difference import ENUMERATED, welch
from rlx.comparison.statistics.interval import Array, Interval, Strata, deviation


def small_sample_factor(df: float) -> float:
    """The factor that makes Cohen's d unbiased for normal scores: Hedges' J, in the usual form 1 - 3 / (4 df - 1)."""
    return 1 - 3 / (4 * df - 1)


def average_deviation(a: Strata, b: Strata) -> tuple[float, float]:
    """Root mean square of both arms' standard deviations over seeds, and its degrees of freedom. a, b: one [S_m] per task.

    Unlike a pooled deviation it does not depend on which arm has more seeds (Delacre et al. 2021, doi:10.31234/osf.io/tu6mp).
    The degrees of freedom are those of the pooled deviation if the numbers of seeds are equal, as both deviations are then equal.
    """
    sizes = np.array([len(x) for x in (*a, *b)])
    variances = np.array([deviation(x) ** 2 for x in (*a, *b)])
    total = float(variances.sum())
    if total == 0 or not math.isfinite(total):
        return 0.0, 0.0
    equal = len(set(sizes.tolist())) == 1
    df = float((sizes - 1).sum()) if equal else total**2 / float((variances**2 / (sizes - 1)).sum())
    return math.sqrt(total / len(sizes)), df


def hedges_g(a: Strata, b: Strata) -> float | None:
    """Difference of means in average standard deviations over seeds, corrected for few seeds; None without any spread.

    a, b: one [S_m] per task.
    """
    spread, df = average_deviation(a, b)
    return None if spread == 0 else _difference(a, b) / spread * small_sample_factor(df)


def _difference(a: Strata, b: Strata) -> float:
    return float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(a, b, strict=True)]))


def hedges_g_interval(
    a: Strata, b: Strata, *, level: float = 0.95, error: float | None = None, df: float | None = None
) -> Interval | None:
    """Interval of the standardised difference, by inverting a noncentral t with Welch's error and degrees of freedom.

    a, b: one [S_m] per task. error, df: of the difference, if runs are paired.
    """
    spread, _ = average_deviation(a, b)
    welch_result = welch(a, b)
    error = welch_result.standard_error if error is None else error
    df = welch_result.df if df is None else df
    if spread == 0 or error == 0:
        return None
    low, high = (_noncentrality(_difference(a, b) / error, df, chance) for chance in ((1 + level) / 2, (1 - level) / 2))
    return Interval(low * error / spread, high * error / spread, level, "noncentral t")


def _noncentrality(statistic: float, df: float, probability: float) -> float:
    """The shift of a noncentral t under which `statistic` is its `probability` quantile."""
    if statistic < 0:
        return -_noncentrality(-statistic, df, 1 - probability)
    if statistic > 1000:  # only the denominator of t, a chi, matters there
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
    """Newcombe's score interval (2006, doi:10.1002/sim.2324, method 5), whose width is not 0 when all of a beat all of b.

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
    """The root of `distance`, positive at `outside` and negative at `inside`, by bisection."""
    for _ in range(50):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if distance(middle) > 0 else (outside, middle)
    return (outside + inside) / 2


def chance_p(a: Array, b: Array, rng: np.random.Generator, *, num_permutations: int = 9_999) -> float:
    """Two-sided p for the hypothesis that a run of a beats a run of b with probability 1/2, ties counting half. a: [S], b: [S'].

    Brunner and Munzel's statistic over relabelled runs (Neubert and Brunner 2007, doi:10.1016/j.csda.2006.05.024): exact for
    equal distributions, close to the level for different shapes; all relabellings if there are few.
    """
    x, y = np.asarray(a, float), np.asarray(b, float)
    pool, size = np.concatenate([x, y]), len(x)
    if comb(len(pool), size) <= ENUMERATED:
        first = np.array(list(combinations(range(len(pool)), size)))
        mask = np.zeros((len(first), len(pool)), bool)
        np.put_along_axis(mask, first, True, axis=1)
        order = np.argsort(~mask, axis=1, kind="stable")
        found = _brunner_munzel(pool[order], size)
        return float((np.abs(found) >= abs(_brunner_munzel(pool[None], size)[0]) * (1 - 1e-9)).mean())
    found = _brunner_munzel(rng.permuted(np.broadcast_to(pool, (num_permutations, len(pool))), axis=1), size)
    hits = (np.abs(found) >= abs(_brunner_munzel(pool[None], size)[0]) * (1 - 1e-9)).sum()
    return float((1 + hits) / (1 + num_permutations))


def _brunner_munzel(values: Array, size: int) -> Array:
    """The studentised chance of beating. values: [R, S + S'], the first `size` of a; returns [R]."""
    x, y = values[:, :size], values[:, size:]
    wins = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])  # [R, S, S']
    of_a, of_b = wins.mean(axis=2), wins.mean(axis=1)
    least = 1 / (2 * size * y.shape[1]) ** 2  # if all of one beat all of the other, both variances are 0
    variance = of_a.var(axis=1, ddof=1) / size + of_b.var(axis=1, ddof=1) / y.shape[1]
    return np.asarray((of_a.mean(axis=1) - 0.5) / np.sqrt(np.maximum(variance, least)))


def share_interval(count: int, total: int, *, level: float = 0.95) -> Interval:
    """Clopper and Pearson's exact interval of a probability from `count` of `total` independent runs."""
    tail = (1 - level) / 2
    low = 0.0 if count == 0 else float(special.betaincinv(count, total - count + 1, tail))
    high = 1.0 if count == total else float(special.betaincinv(count + 1, total - count, 1 - tail))
    return Interval(low, high, level, "Clopper-Pearson")
