"""Two variants against each other: the test, the effect, and the verdict in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from rlx.comparison.choices import Choices
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.crossed import (
    Components,
    Halving,
    components,
    crossed,
    crossed_seeds_needed,
    halve_interval,
    prompts_needed,
)
from rlx.comparison.statistics.difference import (
    TestResult,
    detectable_difference,
    equivalence_p,
    paired,
    rank_test_p,
    seeds_needed,
    studentised_permutation_p,
    welch,
)
from rlx.comparison.statistics.effect import (
    chance_p,
    hedges_g,
    hedges_g_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from rlx.comparison.statistics.interval import Array, Interval, Strata, deviation
from rlx.errors import EvidenceError

UNEQUAL = 1.5  # ratio of numbers of seeds from which Welch's t is unreliable for skewed scores


@dataclass(frozen=True)
class Arm:
    """The scores of one variant: one [S_m] per task, and the seeds behind them.

    same_run: all runs are equal in every metric. tables: the score of each answer, one [S_m, P_m] per task with rows in the
    order of seeds; None if a run did not store its answers. fingerprints: of all metrics, one per run; None if runs were
    averaged. prompts: the digests of the prompts of each task, if recorded. run_seconds: training time of a run;
    prompt_seconds: time to evaluate it on one more prompt; None: unknown.
    """

    label: str
    scores: Strata
    seeds: Sequence[Sequence[int]]
    same_run: bool = False
    tables: Sequence[Array] | None = None
    fingerprints: Sequence[Sequence[int | None]] = ()
    prompts: Sequence[frozenset[str]] = ()
    run_seconds: float | None = None
    prompt_seconds: float | None = None

    @property
    def n(self) -> int:
        """The smallest number of seeds on any task."""
        return min(len(scores) for scores in self.scores)


@dataclass(frozen=True, kw_only=True)
class PairComparison(Serializable):
    """The comparison of two variants, a - b. verdict: of a against b, one of VERDICTS; words: the verdict as a sentence.

    over_prompts: test, interval and needed numbers are over seeds and prompts (the crossed model), not only over seeds on
    these prompts; p_fixed: p over seeds on these prompts. question: what the verdict is about, the `mean` or the `chance`
    that a run of a beats a run of b. num_prompts: of the first task. components: variance components, one per task.
    halving: what would halve the interval; cheapest: whether seeds or prompts cost less. seed_correlation: of the scores of
    shared seeds (3 or more). identical: every run of a equals the run of b with the same seed in all metrics.

    level: of each interval here, individually. p_adjusted: Holm over all pairs of the comparison; null: no test was possible.
    minimum_detectable_difference, seeds_needed: at 80 % power, at the level of the strictest step of Holm's rule;
    seeds_needed is for a difference as large as the observed one; seeds_needed_at_most allows for the uncertainty of the spread.
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
    statistic: float | None = None
    df: float
    p: float | None = None
    p_adjusted: float | None = None
    p_equivalent: float | None = None
    p_rank: float | None = None
    effect_size: float | None = None
    effect_size_interval: Interval | None = None
    probability_of_improvement: float
    probability_of_improvement_interval: Interval | None = None
    minimum_detectable_difference: float | None = None
    seeds_needed: int | None = None
    seeds_needed_at_most: int | None = None
    margin: float | None
    question: str = "mean"
    lower_is_better: bool = False
    over_prompts: bool = False
    num_prompts: int | None = None
    p_fixed: float | None = None
    prompts_needed: int | None = None
    components: tuple[Components, ...] | None = None
    halving: Halving | None = None
    cheapest: str | None = None
    seed_correlation: float | None = None
    shared_seeds: int = 0
    identical: bool = False
    verdict: str = ""
    words: str = ""


def compare_pair(a: Arm, b: Arm, choices: Choices, *, comparisons: int, rng: np.random.Generator) -> PairComparison:
    """Everything about one pair except its verdict, which depends on the other pairs (Holm).

    With prompts=random the verdict also holds for other prompts, if both arms have stored answers. comparisons: number of pairs.
    """
    correlation, shared = _seed_correlation(a, b)
    level, margin, question = choices.level, choices.margin, choices.question
    about: dict[str, Any] = {"question": question, "lower_is_better": choices.is_lower_better, "identical": _identical(a, b)}
    about |= {"seed_correlation": correlation, "shared_seeds": shared, "num_prompts": _num_prompts(a, b)}
    if choices.paired:
        a, b = common_seeds(a, b)
    if min(a.n, b.n) < 2:
        return replace(_untested(a, b, choices), **about)
    fixed, reason, p_fixed = _test(a, b, choices, rng)
    result, p = fixed, p_fixed
    over_prompts = choices.prompts == "random" and question == "mean" and _share_prompts(a, b) and fixed.name != "none"
    if over_prompts:
        about["components"] = parts = _components(a, b, is_paired=choices.paired)
        result, reason, p = _over_prompts(a, b, fixed, p_fixed, parts, choices, reason=reason, rng=rng)
    if question == "chance" and fixed.name != "none":
        result, reason, p = _by_chance(a, b, result, rng)
    alpha, single = (1 - level) / comparisons, len(a.scores) == 1
    if result.standard_error > 0 and question == "mean" and p is not None:
        about |= _needed(a, b, result, choices, alpha=alpha, parts=about.get("components"))
    about |= _effects(a, b, fixed, choices)
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
        p_equivalent=equivalence_p(result, margin=margin) if margin is not None and p is not None else None,
        p_rank=rank_test_p(a.scores[0], b.scores[0]) if single and not choices.paired else None,
        margin=margin,
        over_prompts=over_prompts,
        p_fixed=p_fixed,
        **about,
    )


def _by_chance(a: Arm, b: Arm, result: TestResult, rng: np.random.Generator) -> tuple[TestResult, str, float | None]:
    """The result with the p of the chance that a run of one beats a run of the other."""
    reason = "the chance that a run of one beats a run of the other, over relabelled runs"
    return replace(result, name="Brunner and Munzel's test"), reason, chance_p(a.scores[0], b.scores[0], rng)


def _effects(a: Arm, b: Arm, fixed: TestResult, choices: Choices) -> dict[str, Any]:
    """The effect size in standard deviations and as a chance, each with its interval."""
    error = {"error": fixed.standard_error, "df": fixed.df} if choices.paired else {}
    sides = (b.scores, a.scores) if choices.is_lower_better else (a.scores, b.scores)
    return {
        "effect_size": hedges_g(a.scores, b.scores),
        "effect_size_interval": hedges_g_interval(a.scores, b.scores, level=choices.level, **error),
        "probability_of_improvement": probability_of_improvement(*sides),
        "probability_of_improvement_interval": probability_of_improvement_interval(*sides, level=choices.level),
    }


def _share_prompts(a: Arm, b: Arm) -> bool:
    """Whether both have the answers of every run to the same prompts on each task.

    Without recorded digests, equally many prompts are assumed to be the same.
    """
    if a.tables is None or b.tables is None or not same_digests(a, b):
        return False
    return all(x.shape[1] == y.shape[1] >= 2 for x, y in zip(a.tables, b.tables, strict=True))


def same_digests(a: Arm, b: Arm) -> bool:
    """False if two runs of these variants are known to have answered different prompts of one task."""
    return all(len(x | y) <= 1 for x, y in zip(a.prompts, b.prompts, strict=False))


def _num_prompts(a: Arm, b: Arm) -> int | None:
    return int(a.tables[0].shape[1]) if a.tables and b.tables and a.tables[0].shape[1] == b.tables[0].shape[1] else None


def _over_prompts(
    a: Arm, b: Arm, fixed: TestResult, p_fixed: float | None, parts: Sequence[Components], choices: Choices, *,
    reason: str, rng: np.random.Generator,
) -> tuple[TestResult, str, float | None]:  # fmt: skip
    """The crossed test. If numbers of seeds are very unequal, a permutation test over seeds and prompts must agree with it."""
    result = crossed(a.tables or (), b.tables or (), level=choices.level, pairs=choices.paired)
    if result.p is None:
        return fixed, reason, p_fixed
    taken = "of one seed as pairs" if choices.paired else "taken as independent"
    why = f"over seeds and prompts, runs {taken}: both are samples of those that might have been drawn (prompts=random)"
    if "permutation" in fixed.name:
        permuted = studentised_permutation_p(a.scores, b.scores, rng, over_prompts=sum(p.interaction / p.prompts for p in parts))
        return replace(result, name=f"{result.name}, checked by permutation"), why, max(result.p, permuted)
    return result, why, result.p


def _components(a: Arm, b: Arm, *, is_paired: bool) -> tuple[Components, ...]:
    return tuple(components(x, y, pairs=is_paired) for x, y in zip(a.tables or (), b.tables or (), strict=True))


def _needed(
    a: Arm, b: Arm, result: TestResult, choices: Choices, *, alpha: float, parts: Sequence[Components] | None
) -> dict[str, Any]:
    """The detectable difference of these runs, and the seeds and prompts needed for a difference of the observed size."""
    found: dict[str, Any] = {
        "minimum_detectable_difference": detectable_difference(error=result.standard_error, df=result.df, alpha=alpha)
    }
    widen = math.sqrt(result.df / float(special.chdtri(result.df, 0.8)))  # the upper 80 % limit of the spread
    if parts is None:
        for name, factor in (("seeds_needed", 1.0), ("seeds_needed_at_most", widen)):
            found[name] = _seeds(a, b, result, alpha=alpha, is_paired=choices.paired, widen=factor)
        return found
    for name, factor in (("seeds_needed", 1.0), ("seeds_needed_at_most", widen**2)):
        found[name] = crossed_seeds_needed(result.difference, parts, alpha=alpha, widen=factor)
    found["prompts_needed"] = prompts_needed(result.difference, parts, alpha=alpha)
    found["halving"] = halve_interval(parts, level=choices.level)
    found["cheapest"] = _cheapest(a, b, found["halving"])
    return found


def _cheapest(a: Arm, b: Arm, halving: Halving) -> str | None:
    """What halves the interval at the lowest cost: `seeds` (whole runs) or `prompts` (more evaluation of existing runs)."""
    if halving.seeds is None or halving.prompts is None:
        return "seeds" if halving.seeds is not None else "prompts" if halving.prompts is not None else None
    runs = [max(halving.seeds - arm.n, 0) * (arm.run_seconds or math.inf) for arm in (a, b)]
    answers = [halving.prompts * arm.n * (arm.prompt_seconds or 0.0) for arm in (a, b)]
    return "seeds" if sum(runs) < sum(answers) else "prompts"


def _seed_correlation(a: Arm, b: Arm) -> tuple[float | None, int]:
    """Correlation of the scores of shared seeds, within tasks, and their number; None below 3 or without spread."""
    shared = min(len(set(x) & set(y)) for x, y in zip(a.seeds, b.seeds, strict=True))
    if shared < 3:
        return None, shared
    x, y = common_seeds(replace(a, tables=None), replace(b, tables=None))
    left, right = (np.concatenate([scores - scores.mean() for scores in arm.scores]) for arm in (x, y))
    size = math.sqrt(float(left @ left) * float(right @ right))
    return (float(left @ right) / size if size > 1e-24 else None), shared


def _identical(a: Arm, b: Arm) -> bool:
    """Whether both ran the same seeds and every run of a equals the one of b in all metrics."""
    if not a.fingerprints or not b.fingerprints:
        return False
    sides = [
        [dict(zip(seeds, prints, strict=True)) for seeds, prints in zip(arm.seeds, arm.fingerprints, strict=True)]
        for arm in (a, b)
    ]
    known = all(value is not None for side in sides for task in side for value in task.values())
    return known and sides[0] == sides[1]


def _untested(a: Arm, b: Arm, choices: Choices) -> PairComparison:
    """A pair with a single run in an arm: only the difference, without anything that needs a spread."""
    if min(a.n, b.n) == 0:
        raise EvidenceError(
            f"{a.label} and {b.label} share no seed, so there are no pairs; run them on the same seeds, or paired=false"
        )
    gap = float(np.mean([x.mean() - y.mean() for x, y in zip(a.scores, b.scores, strict=True)]))
    return PairComparison(
        a=a.label,
        b=b.label,
        n_a=a.n,
        n_b=b.n,
        difference=gap,
        low=math.nan,
        high=math.nan,
        level=choices.level,
        test="none",
        reason="one run has no spread to test against",
        df=0.0,
        margin=choices.margin,
        probability_of_improvement=probability_of_improvement(a.scores, b.scores),
    )


def common_seeds(a: Arm, b: Arm) -> tuple[Arm, Arm]:
    """Both arms reduced to their common seeds, in the same order."""
    scores_a, scores_b, seeds = [], [], []
    for x, y, seeds_x, seeds_y in zip(a.scores, b.scores, a.seeds, b.seeds, strict=True):
        shared = sorted(set(seeds_x) & set(seeds_y))
        scores_a.append(np.array([x[list(seeds_x).index(seed)] for seed in shared]))
        scores_b.append(np.array([y[list(seeds_y).index(seed)] for seed in shared]))
        seeds.append(shared)
    tables_a, tables_b = _cut(a, seeds), _cut(b, seeds)
    left = replace(a, scores=scores_a, seeds=seeds, tables=tables_a, fingerprints=())
    return left, replace(b, scores=scores_b, seeds=seeds, tables=tables_b, fingerprints=())


def _cut(arm: Arm, kept: Sequence[Sequence[int]]) -> list[Array] | None:
    """The rows of the tables for the kept seeds, in order."""
    if arm.tables is None:
        return None
    return [
        table[[list(seeds).index(seed) for seed in shared]]
        for table, seeds, shared in zip(arm.tables, arm.seeds, kept, strict=True)
    ]


def _test(a: Arm, b: Arm, choices: Choices, rng: np.random.Generator) -> tuple[TestResult, str, float | None]:
    """The test, the reason for it, and its p. The choice depends on declarations and numbers of seeds, never on scores."""
    result = (paired if choices.paired else welch)(a.scores, b.scores, level=choices.level)
    tasks = "" if len(a.scores) == 1 else f"; the mean over {len(a.scores)} tasks, spread taken within each"
    if any(x and y and not x & y for x, y in zip(a.prompts, b.prompts, strict=False)):
        reason = "they answered different held-out prompts, which may be what their scores differ by"
        return replace(result, name="none"), reason, None
    if result.standard_error == 0:
        return _without_spread(a, b, result, is_paired=choices.paired, rng=rng)
    if choices.paired:
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
    untested = replace(result, name="none")
    if a.same_run or b.same_run:
        return untested, "the runs of a variant are identical in every metric: they are one run, not several seeds", None
    if result.difference == 0:
        return untested, "the scores are identical over all seeds: there is no spread to judge by", None
    if is_paired:
        size, reason = sum(len(scores) for scores in a.scores), "every seed differs by the same amount: only signs can be tested"
        return replace(result, name="sign test"), reason, 2.0 ** (1 - size)
    p = studentised_permutation_p(a.scores, b.scores, rng)
    return replace(result, name="permutation test"), "no spread in either variant: only relabelling the runs can be tested", p


def _seeds(a: Arm, b: Arm, result: TestResult, *, alpha: float, is_paired: bool, widen: float) -> int | None:
    """The seeds needed for a difference as large as the observed one on these prompts; widen: factor of the spread."""
    if is_paired:
        spread = result.standard_error * math.sqrt(a.n) * widen
        return seeds_needed(result.difference, deviations=(spread, 0.0), alpha=alpha)
    sides = [math.sqrt(sum(deviation(x) ** 2 for x in arm.scores)) / len(arm.scores) * widen for arm in (a, b)]
    return seeds_needed(result.difference, deviations=(sides[0], sides[1]), alpha=alpha)
