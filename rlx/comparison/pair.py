"""Two variants against each other: the test, the effect, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.difference import (
    TestResult,
    paired,
    rank_test_p,
    studentised_permutation_p,
    tost_p,
    welch,
)
from rlx.comparison.statistics.effect import (
    hedges_g,
    hedges_g_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from rlx.comparison.statistics.interval import Interval, Strata, deviation
from rlx.comparison.statistics.power import detectable_difference, seeds_needed

UNEQUAL = 1.5  # from this ratio of seeds on, Welch's t errs for skewed scores


@dataclass(frozen=True)
class Arm:
    """The scores of one variant: one [S_m] per task, and the seeds behind them. same_run: all runs are one and the same."""

    label: str
    scores: Strata
    seeds: Sequence[Sequence[int]]
    same_run: bool = False

    @property
    def n(self) -> int:
        """The smallest number of seeds on any task."""
        return min(len(scores) for scores in self.scores)


@dataclass(frozen=True)
class PairComparison(Serializable):
    """What is known about a - b. verdict: of a against b, one of VERDICTS; words: the same as a sentence.

    level: of all intervals here, each for itself. p_adjusted: Holm over all pairs of the comparison; null: no test was possible.
    minimum_detectable_difference, seeds_needed: at 80 % power, at the level that the strictest step of Holm's rule asks;
    seeds_needed is for a difference as large as the one observed; seeds_needed_at_most allows for an uncertain spread.
    """

    a: str
    b: str
    n_a: int
    n_b: int
    difference: float
    low: float
    high: float
    level: float
    test: str
    reason: str
    statistic: float | None
    df: float
    p: float | None
    p_adjusted: float | None
    p_equivalent: float | None
    p_rank: float | None
    effect_size: float | None
    effect_size_interval: Interval | None
    probability_of_improvement: float
    probability_of_improvement_interval: Interval | None
    minimum_detectable_difference: float | None
    seeds_needed: int | None
    seeds_needed_at_most: int | None
    margin: float | None
    verdict: str = ""
    words: str = ""


def compare_pair(
    a: Arm, b: Arm, *, is_paired: bool, margin: float | None, level: float, comparisons: int, rng: np.random.Generator
) -> PairComparison:
    """Everything about one pair but its verdict, which depends on the others (Holm)."""
    if is_paired:
        a, b = common_seeds(a, b)
    if min(a.n, b.n) < 2:
        return _untested(a, b, margin=margin, level=level)
    result, reason, p = _test(a, b, is_paired=is_paired, level=level, rng=rng)
    alpha = (1 - level) / comparisons
    testable = result.standard_error > 0
    single = len(a.scores) == 1
    at_most = _seeds(a, b, result, alpha=alpha, is_paired=is_paired, cautious=True) if testable else None
    return PairComparison(
        a=a.label,
        b=b.label,
        n_a=a.n,
        n_b=b.n,
        difference=result.difference,
        low=result.low,
        high=result.high,
        level=level,
        test=result.name,
        reason=reason,
        statistic=result.statistic,
        df=result.df,
        p=p,
        p_adjusted=None,
        p_equivalent=tost_p(a.scores, b.scores, margin=margin, pairs=is_paired) if margin is not None else None,
        p_rank=rank_test_p(a.scores[0], b.scores[0]) if single and not is_paired else None,
        effect_size=hedges_g(a.scores, b.scores),
        effect_size_interval=hedges_g_interval(a.scores, b.scores, level=level, error=result.standard_error, df=result.df)
        if is_paired
        else hedges_g_interval(a.scores, b.scores, level=level),
        probability_of_improvement=probability_of_improvement(a.scores, b.scores),
        probability_of_improvement_interval=probability_of_improvement_interval(a.scores, b.scores, level=level),
        minimum_detectable_difference=detectable_difference(error=result.standard_error, df=result.df, alpha=alpha)
        if testable
        else None,
        seeds_needed=_seeds(a, b, result, alpha=alpha, is_paired=is_paired, cautious=False) if testable else None,
        seeds_needed_at_most=at_most,
        margin=margin,
    )


def _untested(a: Arm, b: Arm, *, margin: float | None, level: float) -> PairComparison:
    """A pair with a single run in an arm: the difference, and nothing that would need a spread."""
    if min(a.n, b.n) == 0:
        from rlx.errors import EvidenceError

        raise EvidenceError(
            f"{a.label} and {b.label} share no seed, so there are no pairs; run them on the same seeds, or paired=false"
        )
    gap = float(np.mean([x.mean() - y.mean() for x, y in zip(a.scores, b.scores, strict=True)]))
    nothing: dict[str, Any] = dict.fromkeys(
        (
            *("statistic", "p", "p_adjusted", "p_equivalent", "p_rank", "effect_size", "effect_size_interval"),
            *("probability_of_improvement_interval", "minimum_detectable_difference", "seeds_needed", "seeds_needed_at_most"),
        )
    )
    return PairComparison(
        a=a.label,
        b=b.label,
        n_a=a.n,
        n_b=b.n,
        difference=gap,
        low=math.nan,
        high=math.nan,
        level=level,
        test="none",
        reason="one run has no spread to test against",
        df=0.0,
        margin=margin,
        probability_of_improvement=probability_of_improvement(a.scores, b.scores),
        **nothing,
    )


def common_seeds(a: Arm, b: Arm) -> tuple[Arm, Arm]:
    """Both arms cut to the seeds that both ran, in the same order."""
    scores_a, scores_b, seeds = [], [], []
    for x, y, seeds_x, seeds_y in zip(a.scores, b.scores, a.seeds, b.seeds, strict=True):
        shared = sorted(set(seeds_x) & set(seeds_y))
        scores_a.append(np.array([x[list(seeds_x).index(seed)] for seed in shared]))
        scores_b.append(np.array([y[list(seeds_y).index(seed)] for seed in shared]))
        seeds.append(shared)
    return replace(a, scores=scores_a, seeds=seeds), replace(b, scores=scores_b, seeds=seeds)


def _test(a: Arm, b: Arm, *, is_paired: bool, level: float, rng: np.random.Generator) -> tuple[TestResult, str, float | None]:
    """The test, why this one, and its p. The choice depends on what was declared and on numbers of seeds, never on scores."""
    result = paired(a.scores, b.scores, level=level) if is_paired else welch(a.scores, b.scores, level=level)
    tasks = "" if len(a.scores) == 1 else f"; the mean over {len(a.scores)} tasks, spread taken within each"
    if result.standard_error == 0:
        return _without_spread(a, b, result, is_paired=is_paired, rng=rng)
    if is_paired:
        return result, f"runs that share a seed were declared pairs (paired=true){tasks}", result.p
    ratio = max(max(len(x), len(y)) / min(len(x), len(y)) for x, y in zip(a.scores, b.scores, strict=True))
    if ratio < UNEQUAL:
        return result, f"runs taken as independent (paired=false), spreads that may differ{tasks}", result.p
    permuted = studentised_permutation_p(a.scores, b.scores, rng)
    named = replace(result, name=f"{result.name}, checked by permutation")
    reason = f"very unequal numbers of seeds: the larger p of Welch's and of the studentised permutation test counts{tasks}"
    assert result.p is not None
    return named, reason, max(result.p, permuted)


def _without_spread(
    a: Arm, b: Arm, result: TestResult, *, is_paired: bool, rng: np.random.Generator
) -> tuple[TestResult, str, float | None]:
    if a.same_run or b.same_run:
        return (
            replace(result, name="none"),
            "the runs of a variant are identical in every metric: they are one run, not several seeds",
            None,
        )
    if result.difference == 0:
        return (
            replace(result, name="none"),
            "the scores are identical over all seeds of both: there is no spread to judge by",
            None,
        )
    if is_paired:
        size = sum(len(scores) for scores in a.scores)
        return (
            replace(result, name="sign test"),
            "every seed differs by the same amount: only the signs can be tested",
            2.0 ** (1 - size),
        )
    p = studentised_permutation_p(a.scores, b.scores, rng)
    return replace(result, name="permutation test"), "no spread in either variant: only relabelling the runs can be tested", p


def _seeds(a: Arm, b: Arm, result: TestResult, *, alpha: float, is_paired: bool, cautious: bool) -> int | None:
    """Seeds that would find a difference as large as the observed one; cautious: at the upper 80 % limit of the spread."""
    widen = math.sqrt(result.df / float(special.chdtri(result.df, 0.8))) if cautious else 1.0
    if is_paired:
        spread = result.standard_error * math.sqrt(a.n) * widen
        return seeds_needed(result.difference, deviations=(spread, 0.0), alpha=alpha)
    sides = [math.sqrt(sum(deviation(x) ** 2 for x in arm.scores)) / len(arm.scores) * widen for arm in (a, b)]
    return seeds_needed(result.difference, deviations=(sides[0], sides[1]), alpha=alpha)
