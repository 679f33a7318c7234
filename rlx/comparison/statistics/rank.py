"""Several algorithms over several tasks, by ranks. K algorithms, M tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array
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


def task_ranks(scores: Array) -> Array:
    """Rank of each algorithm within each task, 1 for the highest score, ties sharing. scores: [M, K]; returns [M, K]."""
    values = np.asarray(scores, float)
    above = (values[:, None, :] > values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    return np.asarray(above + (equal + 1) / 2)


def friedman(scores: Array, *, alpha: float = 0.05) -> RankTest:
    """Do the algorithms' ranks differ over tasks? scores: [M, K], one aggregated score a task and algorithm.

    Friedman 1937 with the correction for ties; F of Iman and Davenport 1980 (where all tasks
    rank alike its p would be 0; the exact one stands there); Nemenyi's critical difference as in Demsar 2006.
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
