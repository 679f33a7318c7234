"""Tests of a difference between two algorithms over seeds, each with its interval. A difference is always a minus b.

The arms are strata: one array [S_m] of scores per task (one task: a list of one array). With several tasks the claim is
about the mean over these tasks: variances are computed within tasks, so differences between tasks do not inflate them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array, Strata, deviation, standard_error, t_quantile

ENUMERATED = 20_000


@dataclass(frozen=True)
class TestResult:
    """The result of a test. p is two-sided; None if no test is possible (no spread). low, high: interval of the difference."""

    __test__ = False

    name: str
    difference: float
    low: float
    high: float
    standard_error: float
    df: float
    statistic: float | None
    p: float | None


def welch(a: Strata, b: Strata, *, level: float = 0.95) -> TestResult:
    """Welch's t test of the difference of means, for arms of unequal spread; stratified over tasks if there are several.

    a, b: one [S_m] per task.
    """
    error, df = standard_error((*a, *b))
    difference = float(np.mean([np.mean(x) - np.mean(y) for x, y in zip(a, b, strict=True)]))
    name = "Welch's t" if len(a) == 1 else "stratified Welch's t"
    return student_t(name, difference, error / len(a), df, level=level)


def paired(a: Strata, b: Strata, *, level: float = 0.95) -> TestResult:
    """Student's t test of the differences of runs that share their seed. a, b: one [S_m] per task, in the same seed order."""
    gaps = [np.asarray(x, float) - np.asarray(y, float) for x, y in zip(a, b, strict=True)]
    # compare the spread of differences with the size of the scores, as it may be only rounding
    spreads = [
        0.0 if np.ptp(gap) <= 1e-12 * max(np.abs(x).max(), 1e-300) else deviation(gap) for gap, x in zip(gaps, a, strict=True)
    ]
    error, df = standard_error(gaps, spreads=spreads)
    difference = float(np.mean([gap.mean() for gap in gaps]))
    name = "paired t" if len(a) == 1 else "stratified paired t"
    return student_t(name, difference, error / len(a), df, level=level)


def student_t(name: str, difference: float, error: float, df: float, *, level: float) -> TestResult:
    """The t test of a difference with this standard error; no test if the error is 0."""
    if error == 0:
        return TestResult(name, difference, difference, difference, 0.0, df, None, None)
    statistic = difference / error
    half = t_quantile(df, level) * error
    p = float(min(1.0, 2 * special.stdtr(df, -abs(statistic))))
    return TestResult(name, difference, difference - half, difference + half, error, df, statistic, p)


def studentised_permutation_p(
    a: Strata, b: Strata, rng: np.random.Generator, *, over_prompts: float = 0.0, num_permutations: int = 9_999
) -> float:
    """p of Welch's statistic over relabelled runs: exact for equal algorithms, whatever the shape of their scores.

    All relabellings where there are few (one task), else random ones with the (1 + hits) / (1 + draws) rule
    (Janssen 1997, doi:10.1016/S0167-7152(97)00043-6). a, b: one [S_m] per task. over_prompts: variance that other prompts add to
    the sum of the tasks' differences; relabelled runs answer the same prompts, so each relabelling gets a normal draw of it.
    """
    observed = abs(_statistics([x[None] for x in a], [y[None] for y in b], over_prompts=over_prompts)[0])
    pools = [np.concatenate([x, y]).astype(float) for x, y in zip(a, b, strict=True)]
    sizes = [len(x) for x in a]
    if over_prompts == 0 and len(pools) == 1 and comb(len(pools[0]), sizes[0]) <= ENUMERATED:
        picks = np.array(list(combinations(range(len(pools[0])), sizes[0])))
        mask = np.zeros((len(picks), len(pools[0])), bool)
        np.put_along_axis(mask, picks, True, axis=1)
        pool = np.broadcast_to(pools[0], mask.shape)
        found = _statistics([pool[mask].reshape(len(mask), -1)], [pool[~mask].reshape(len(mask), -1)])
        return float((np.abs(found) >= observed * (1 - 1e-9)).mean())
    mixed = [rng.permuted(np.broadcast_to(pool, (num_permutations, len(pool))), axis=1) for pool in pools]
    found = _statistics(
        [pool[:, :size] for pool, size in zip(mixed, sizes, strict=True)],
        [pool[:, size:] for pool, size in zip(mixed, sizes, strict=True)],
        over_prompts=over_prompts,
        shift=rng.normal(0, math.sqrt(over_prompts), num_permutations) if over_prompts else 0.0,
    )
    return float((1 + (np.abs(found) >= observed * (1 - 1e-9)).sum()) / (1 + num_permutations))


def _statistics(a: Sequence[Array], b: Sequence[Array], *, over_prompts: float = 0.0, shift: Array | float = 0.0) -> Array:
    """Welch's statistic of many relabellings at once. a, b: one [R, S_m] per task; returns [R], infinite without spread.

    over_prompts, shift [R]: a variance and a value that are added to those of the runs.
    """
    gaps = sum(x.mean(axis=1) - y.mean(axis=1) for x, y in zip(a, b, strict=True)) + shift
    variance = sum(x.var(axis=1, ddof=1) / x.shape[1] for x in (*a, *b)) + over_prompts
    scale = max(max(float(np.abs(x).max()) for x in (*a, *b)), 1e-300)
    gaps = np.where(np.abs(gaps) <= 1e-12 * scale, 0.0, gaps)
    flat = variance <= (1e-12 * scale) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(flat, np.where(gaps == 0, 0.0, np.sign(gaps) * np.inf), gaps / np.sqrt(variance))


def equivalence_p(result: TestResult, *, margin: float) -> float:
    """p of two one-sided t tests (TOST) with the error and degrees of freedom of a test's result; 1 without any spread."""
    if result.standard_error == 0:
        return 1.0
    above = special.stdtr(result.df, -(result.difference + margin) / result.standard_error)
    below = special.stdtr(result.df, (result.difference - margin) / result.standard_error)
    return float(max(above, below))


def rank_test_p(a: Array, b: Array) -> float:
    """Two-sided p of Mann and Whitney's test: over all relabellings where there are few, else by the normal approximation.

    Twice the smaller tail, as in scipy's exact test; the approximation corrects for ties and continuity. a: [S], b: [S'].
    """
    ranks = _ranks(np.concatenate([a, b]).astype(float))
    size, total = len(a), len(ranks)
    observed = ranks[:size].sum()
    if comb(total, size) <= ENUMERATED // 4:
        sums = ranks[np.array(list(combinations(range(total), size)))].sum(axis=1)
        low, high = (sums <= observed + 1e-9).mean(), (sums >= observed - 1e-9).mean()
        return float(min(1.0, 2 * min(low, high)))
    deviations = ranks - (total + 1) / 2
    spread = np.sqrt(size * (total - size) / total / (total - 1) * (deviations**2).sum())
    if spread == 0:
        return 1.0
    distance = max(abs(observed - size * (total + 1) / 2) - 0.5, 0.0)
    return float(min(1.0, 2 * special.ndtr(-distance / spread)))


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def holm(p: Sequence[float | None], *, total: int | None = None) -> list[float | None]:
    """Holm's adjustment: the chance of any false claim among all of them stays below the level. None (no test) counts as 1.

    total: the number of tests including those not computed, which also count as 1.
    """
    number = max(len(p), total or 0)
    order = sorted(range(len(p)), key=lambda index: 1.0 if p[index] is None else p[index])  # type: ignore[arg-type, return-value]
    adjusted: list[float | None] = [None] * len(p)
    running = 0.0
    for place, index in enumerate(order):
        value = p[index]
        running = max(running, min(1.0, (number - place) * (1.0 if value is None else value)))
        adjusted[index] = None if value is None else running
    return adjusted


# Power of a number of seeds, the smallest detectable difference, and the seeds needed.


MAX_SEEDS = 100_000
POWER = 0.8  # target power of a test


def power(difference: float, *, error: float, df: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test finds `difference` when its standard error is `error` with `df` degrees of freedom."""
    critical = float(special.stdtrit(df, 1 - alpha / 2))
    shift = abs(difference) / error
    if shift > critical + 30:  # the power is 1, and nctdtr would lose precision
        return 1.0
    upper = special.nctdtr(df, shift, critical)
    lower = special.nctdtr(df, shift, -critical)
    return float(1 - upper + (0.0 if math.isnan(lower) else lower))


def detectable_difference(*, error: float, df: float, alpha: float = 0.05) -> float:
    """The smallest true difference that a test with this standard error finds with probability POWER."""
    if error == 0:
        return 0.0
    critical = float(special.stdtrit(df, 1 - alpha / 2))
    return float(special.nctdtrinc(df, 1 - POWER, critical)) * error  # the far tail is negligible


def seeds_needed(difference: float, *, deviations: tuple[float, float], alpha: float = 0.05) -> int | None:
    """Seeds per algorithm that find `difference` with probability POWER; None if it is 0 or would need infinitely many.

    deviations: standard deviations of the two arms over seeds (Welch). For a paired test: (deviation of the differences, 0).
    """
    a, b = (value**2 for value in deviations)
    if difference == 0 or a + b == 0:
        return None

    def enough(size: int) -> bool:
        df = (size - 1) * (a + b) ** 2 / (a**2 + b**2)
        return power(difference, error=math.sqrt((a + b) / size), df=df, alpha=alpha) >= POWER

    quantiles = float(special.ndtri(1 - alpha / 2) + special.ndtri(POWER))
    guess = (quantiles / difference) ** 2 * (a + b)
    if guess > MAX_SEEDS:
        return None
    size = max(2, int(guess))
    while not enough(size):
        size += 1
    while size > 2 and enough(size - 1):
        size -= 1
    return size
