"""The probability that an algorithm is the best, and ranks over several tasks. K algorithms, M tasks, S seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array, Strata, deviation
from rlx.errors import EvidenceError


@dataclass(frozen=True)
class RankTest:
    """Friedman's test in Iman and Davenport's form, the mean ranks (1 is best), and Nemenyi's critical difference."""

    mean_ranks: tuple[float, ...]
    chi_squared: float
    chi_squared_p: float
    f: float
    p: float
    critical_difference: float
    num_tasks: int


def first_rank_probability(
    arms: Sequence[Strata], rng: np.random.Generator, *, prompts: Array | None = None, num_draws: int = 20_000
) -> Array:
    """Chance that each algorithm has the highest true mean, given these runs; ties share. arms: K strata; returns [K].

    Each mean is drawn from its t distribution around the measured mean, with S - 1 degrees of freedom (the fiducial solution of
    the Behrens-Fisher problem), so that one of two equal algorithms gets 0.975 or more in at most 5 % of comparisons.
    prompts: covariance [K, K] of the means over prompts (`prompt_covariance`); None: for these prompts only.
    """
    means = np.zeros((len(arms), num_draws))
    for index, strata in enumerate(arms):
        for scores in strata:
            size = len(scores)
            spread = deviation(scores) / math.sqrt(size) if size > 1 else 0.0
            drawn = spread * rng.standard_t(size - 1, num_draws) if spread > 0 else 0.0
            means[index] += (float(np.mean(scores)) + drawn) / len(strata)
    if prompts is not None:
        means += rng.multivariate_normal(np.zeros(len(arms)), prompts, size=num_draws, method="eigh").T
    best = means >= means.max(axis=0) - 1e-12
    return np.asarray((best / best.sum(axis=0)).mean(axis=1))


def at_most(chances: Array, limits: Array) -> Array:
    """Probabilities limited to `limits`; the excess is distributed over the others in proportion. All [K]."""
    cut = np.minimum(chances, limits)
    spare, room = float(chances.sum() - cut.sum()), np.where(chances < limits, limits - cut, 0.0)
    if spare <= 0 or room.sum() <= 0:
        return np.asarray(cut)
    weight = np.where(room > 0, np.maximum(chances, 1e-6), 0.0)
    return np.asarray(np.minimum(cut + spare * weight / weight.sum(), limits))


def task_ranks(scores: Array) -> Array:
    """Rank of each algorithm within each task, 1 for the highest score, ties share. scores: [M, K]; returns [M, K]."""
    values = np.asarray(scores, float)
    above = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return np.asarray(above + (equal + 1) / 2)


def friedman(scores: Array, *, alpha: float = 0.05) -> RankTest:
    """Test whether the algorithms' ranks differ over tasks. scores: [M, K], one aggregated score per task and algorithm.

    Friedman 1937 with the correction for ties; F of Iman and Davenport 1980 (if all tasks rank alike, its p would be 0, so the
    exact p is used); Nemenyi's critical difference as in Demsar 2006.
    """
    from scipy import stats  # the studentised range; a slow import that only this needs

    ranks = task_ranks(scores)
    tasks, arms = ranks.shape
    if tasks < 2 or arms < 3:
        raise EvidenceError(f"ranks over tasks need 2 tasks and 3 algorithms, got {tasks} and {arms}; compare pairs instead")
    mean_ranks = ranks.mean(axis=0)
    spread = float(((ranks - (arms + 1) / 2) ** 2).sum())
    chi = 0.0 if spread == 0 else (arms - 1) * tasks**2 * float(((mean_ranks - (arms + 1) / 2) ** 2).sum()) / spread
    rest = tasks * (arms - 1) - chi
    f = math.inf if rest <= 1e-12 else (tasks - 1) * chi / rest
    p = 0.0 if math.isinf(f) else float(special.fdtrc(arms - 1, (arms - 1) * (tasks - 1), f))
    least = math.exp((1 - tasks) * math.lgamma(arms + 1))  # the chance that all tasks rank alike: no p can be smaller
    range_quantile = float(stats.studentized_range.ppf(1 - alpha, arms, np.inf)) / math.sqrt(2)
    critical = range_quantile * math.sqrt(arms * (arms + 1) / (6 * tasks))
    return RankTest(tuple(map(float, mean_ranks)), chi, float(special.chdtrc(arms - 1, chi)), f, max(p, least), critical, tasks)
