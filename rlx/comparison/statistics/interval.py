"""Aggregates of scores over seeds, and the interval of each. S seeds, M tasks; numpy and scipy.special only.

`scores` is one array [S]; `strata` is a sequence of arrays, one [S_m] per task, of possibly unequal lengths.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rlx.errors import EvidenceError

Array = np.ndarray
Strata = Sequence[np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A range [low, high] that covers the true value in `level` of all repetitions, and how it was made."""

    low: float
    high: float
    level: float
    method: str

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain values, as in comparison.json; an infinite end is null."""
        ends = {name: value if math.isfinite(value) else None for name, value in (("low", self.low), ("high", self.high))}
        return {**ends, "level": self.level, "method": self.method}


def t_quantile(df: float, level: float) -> float:
    """The two-sided quantile of Student's t: the half-width of an interval in standard errors."""
    return float(special.stdtrit(df, 0.5 + level / 2))


def iqm(scores: Array) -> float:
    """Interquartile mean: the mean without the lowest and highest floor(S/4) values. Below 4 values: the mean.

    scores: any shape, flattened (Agarwal et al. 2021, arXiv:2108.13264).
    """
    values = np.sort(np.asarray(scores, float), axis=None)
    cut = len(values) // 4
    return float(values[cut : len(values) - cut].mean())


def optimality_gap(scores: Array, *, target: float) -> float:
    """Mean shortfall of the scores from `target`; scores above it do not compensate for scores below it."""
    return float(np.maximum(target - np.asarray(scores, float), 0).mean())


def deviation(scores: Array) -> float:
    """Standard deviation over seeds (S - 1 in the denominator); exactly 0 if scores differ only by rounding. scores: [S]."""
    values = np.asarray(scores, float)
    if len(values) < 2:
        return float("nan")
    spread = float(values.std(ddof=1))
    return 0.0 if spread <= 1e-12 * max(float(np.abs(values).max()), 1e-300) else spread


def standard_error(strata: Strata, *, spreads: Sequence[float] | None = None) -> tuple[float, float]:
    """Standard error of a sum of means, and its degrees of freedom (Welch-Satterthwaite). strata: one [S_m] for each mean.

    spreads: the standard deviation of each array; None: computed.
    """
    spreads = [deviation(scores) for scores in strata] if spreads is None else spreads
    parts = np.array([spread**2 / len(scores) for spread, scores in zip(spreads, strata, strict=True)])
    freedom = np.array([len(scores) - 1 for scores in strata])
    total = parts.sum()
    df = float(freedom.sum()) if total == 0 else float(total**2 / (parts**2 / freedom).sum())
    return float(np.sqrt(total)), df


def mean(strata: Strata) -> float:
    """The mean over tasks of the means over seeds: every task counts the same, however many seeds it has."""
    return float(np.mean([np.mean(scores) for scores in strata]))


def mean_interval(strata: Strata, *, level: float = 0.95) -> Interval:
    """Student's t interval of the mean over seeds; over several tasks, of the mean of the tasks' means."""
    _require_spread(strata)
    error, df = standard_error(strata)
    centre, half = mean(strata), t_quantile(df, level) * (error / len(strata))
    return Interval(centre - half, centre + half, level, "t")


def iqm_interval(scores: Array, *, level: float = 0.95) -> Interval:
    """Tukey and McLaughlin's t interval of the interquartile mean of one task (1963, Sankhya A 25, 331-352). scores: [S].

    Winsorised variance, S - 2 floor(S/4) - 1 degrees of freedom. Widened by S / (S - 1): the winsorised variance of
    few values is too small, and without it the interval covers only 0.91 to 0.94 of normal scores.
    """
    _require_spread([scores])
    values = np.sort(np.asarray(scores, float))
    size, cut = len(values), len(values) // 4
    winsorised = np.clip(values, values[cut], values[size - cut - 1])
    kept = size - 2 * cut
    half = t_quantile(kept - 1, level) * deviation(winsorised) / (1 - 2 * cut / size) / np.sqrt(size)
    half *= size / (size - 1) if cut else 1.0
    centre = iqm(values)
    return Interval(float(centre - half), float(centre + half), level, "t of the trimmed mean" if cut else "t")


def _require_spread(strata: Strata) -> None:
    if (fewest := min(len(scores) for scores in strata)) < 2:
        raise EvidenceError(f"{fewest} seed carries no interval: its spread is unknown; run at least 5 seeds")


# Checks whether scores over seeds look normal, as the intervals assume. S seeds.


def describe_shape(scores: Array, *, alpha: float = 0.05) -> str | None:
    """'two groups', 'outlying low', 'outlying high', 'skewed', or None if the scores look normal. scores: [S].

    By Shapiro and Wilk's test at `alpha`, the share of normal samples that are flagged too; always None below 5 scores.
    """
    values = np.sort(np.asarray(scores, float))
    if len(values) < 5 or deviation(values) == 0:
        return None
    if shapiro_wilk_p(values) >= alpha:
        return None
    gaps = np.diff(values)
    cut = int(gaps.argmax()) + 1
    if gaps.max() > 0.5 * np.ptp(values):
        if cut == 1:
            return "outlying low"
        return "outlying high" if cut == len(values) - 1 else "two groups"
    return "skewed"


def shapiro_wilk_p(scores: Array) -> float:
    """p of Shapiro and Wilk's test in Royston's approximation (1995, AS R94), for 4 scores or more. scores: [S].

    Implemented here because importing scipy.stats would take most of the time of a comparison.
    """
    values = np.sort(np.asarray(scores, float))
    size = len(values)
    normal = special.ndtri((np.arange(1, size + 1) - 0.375) / (size + 0.25))
    total, u = float(normal @ normal), size**-0.5
    last = np.polyval([-2.706056, 4.434685, -2.07119, -0.147981, 0.221157, normal[-1] / total**0.5], u)
    weights = normal.copy()
    if size > 5:
        next_to_last = np.polyval([-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, normal[-2] / total**0.5], u)
        weights /= np.sqrt((total - 2 * normal[-1] ** 2 - 2 * normal[-2] ** 2) / (1 - 2 * last**2 - 2 * next_to_last**2))
        weights[1], weights[-2] = -next_to_last, next_to_last
    else:
        weights /= np.sqrt((total - 2 * normal[-1] ** 2) / (1 - 2 * last**2))
    weights[0], weights[-1] = -last, last
    centred = values - values.mean()
    rest = max(1 - float(weights @ centred) ** 2 / float(centred @ centred), 1e-300)  # 1 - W
    if size <= 11:
        reach = 0.459 * size - 2.273 - np.log(rest)
        if reach <= 0:
            return 0.0
        found = -np.log(reach)
        mean = np.polyval([-0.0006714, 0.025054, -0.39978, 0.544], size)
        spread = np.exp(np.polyval([-0.0020322, 0.062767, -0.77857, 1.3822], size))
    else:
        found, large = np.log(rest), np.log(size)
        mean = np.polyval([0.0038915, -0.083751, -0.31082, -1.5861], large)
        spread = np.exp(np.polyval([0.0030302, -0.082676, -0.4803], large))
    return float(special.ndtr((mean - found) / spread))
