"""Bootstrap over whole runs, within each task. S seeds, M tasks, R resamples. Randomness is an argument.

A percentile bootstrap over few runs is too narrow (5 seeds: coverage 0.85 instead of 0.95), so its deviations are widened by
(S / (S - 1)) ** 0.75 and by the ratio of the t to the normal quantile; with many runs both factors approach 1. An exponent of
0.5 corrects the variance; a further 0.25 compensates for the coarse quantiles of few runs (2 to 4 seeds: 0.92 without it).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array, Interval, Strata, t_quantile

CHUNK = 2_000_000  # numbers in memory at once
Statistic = Callable[[Array], Array]


def row_iqm(values: Array) -> Array:
    """Interquartile mean of each row. values: [R, N]; returns [R]."""
    size = values.shape[1]
    cut = size // 4
    if cut == 0:
        return np.asarray(values.mean(axis=1))
    ordered = np.partition(values, (cut, size - cut - 1), axis=1)
    return np.asarray(ordered[:, cut : size - cut].mean(axis=1))


def row_optimality_gap(target: float) -> Statistic:
    """The statistic that is each row's mean shortfall from `target`."""
    return lambda values: np.asarray(np.maximum(target - values, 0).mean(axis=1))


def stratified_bootstrap(strata: Strata, statistic: Statistic, rng: np.random.Generator, *, num_resamples: int = 2_000) -> Array:
    """`statistic` of `num_resamples` data sets whose runs are drawn with replacement within each task; returns [R]."""
    total = sum(len(scores) for scores in strata)
    step = max(1, CHUNK // max(total, 1))
    found = []
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        picked = [np.asarray(scores, float)[rng.integers(len(scores), size=(rows, len(scores)))] for scores in strata]
        found.append(statistic(np.concatenate(picked, axis=1)))
    return np.concatenate(found)


def bootstrap_interval(
    strata: Strata,
    statistic: Statistic,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    num_resamples: int = 2_000,
    widen: bool = True,
) -> Interval:
    """Stratified percentile bootstrap over runs; `widen=False` gives the plain one of Agarwal et al. 2021.

    strata: one [S_m] per task. The claim is about these tasks and new seeds, not about new tasks.
    """
    draws = stratified_bootstrap(strata, statistic, rng, num_resamples=num_resamples)
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    if not widen:
        return Interval(float(low), float(high), level, "stratified bootstrap, percentile")
    centre = float(statistic(np.concatenate([np.asarray(scores, float) for scores in strata])[None])[0])
    factor = widening(strata, level=level)
    return Interval(
        centre - factor * (centre - float(low)), centre + factor * (float(high) - centre), level, "stratified bootstrap"
    )


def widening(strata: Strata, *, level: float) -> float:
    """The factor by which the bootstrap's deviations are too small for this few runs."""
    freedom = sum(len(scores) - 1 for scores in strata)
    size = sum(len(scores) for scores in strata)
    return float((size / freedom) ** 0.75) * t_quantile(freedom, level) / float(special.ndtri(0.5 + level / 2))


def performance_profile(strata: Strata, thresholds: Array) -> Array:
    """Share of runs whose score is above each threshold, averaged over tasks. thresholds: [K]; returns [K]."""
    shares = [(np.asarray(scores, float)[:, None] > thresholds).mean(axis=0) for scores in strata]
    return np.asarray(np.mean(shares, axis=0))


def profile_band(
    strata: Strata, thresholds: Array, rng: np.random.Generator, *, level: float = 0.95, num_resamples: int = 1_000
) -> tuple[Array, Array]:
    """Pointwise bootstrap band of the performance profile. thresholds: [K]; returns two [K]."""
    above = [(np.asarray(scores, float)[:, None] > thresholds).astype(float) for scores in strata]
    draws = np.zeros((num_resamples, len(thresholds)))
    for part in above:
        weights = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=num_resamples)
        draws += weights @ part / len(part) / len(above)
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high


# Learning curves: one number per run for tests, and bands over seeds for plots. S seeds, K steps.


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
    """Put the curves of S runs on one grid: every step at which any run was evaluated.

    Returns steps [K] and values [S, K], which are NaN where a run was not evaluated.
    """
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


# Tuned algorithms: the expected best score of a number of trials, so that more tuning does not look like a better algorithm.


def expected_best(scores: Array) -> Array:
    """Expected maximum of k trials drawn without replacement, for k = 1..N: unbiased (Tang et al. 2020, arXiv:2004.13705).

    scores: [..., N], one per trial; returns [..., N].
    """
    values = np.asarray(scores, float)
    return np.asarray(np.sort(values, axis=-1) @ _weights(values.shape[-1]).T)


def _weights(size: int) -> Array:
    """Chance that the i-th smallest of N trials is the best of k. Returns [k, i], both N long."""
    rows = [np.full(size, 1 / size)]
    for k in range(1, size):  # C(i, k) / C(N, k + 1) from C(i, k - 1) / C(N, k), i the number of smaller trials
        rows.append(rows[-1] * np.maximum(np.arange(size) - k + 1, 0) / k * (k + 1) / (size - k))
    return np.array(rows)


def expected_best_band(
    scores: Array, rng: np.random.Generator, *, level: float = 0.95, num_resamples: int = 500
) -> tuple[Array, Array]:
    """Pointwise bootstrap band of `expected_best`. scores: [N]; returns two [N]. Too narrow towards the largest k."""
    values = np.asarray(scores, float)
    draws = expected_best(values[rng.integers(len(values), size=(num_resamples, len(values)))])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high
