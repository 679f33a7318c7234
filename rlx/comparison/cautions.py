"""Cautions: what a reader must know before believing a comparison, each with its reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlx.comparison.choices import Choices
from rlx.comparison.evidence import Evidence
from rlx.comparison.grouping import Grouping
from rlx.comparison.pair import UNEQUAL, Arm
from rlx.comparison.refusal import more_seeds
from rlx.comparison.run_cautions import Caution, about_budgets, about_failures, about_records
from rlx.comparison.scores import RunScore
from rlx.comparison.statistics.measured import MEAN_COVERAGE
from rlx.comparison.statistics.shape import describe_shape
from rlx.comparison.variant import Variant
from rlx.comparison.verdict import FEWEST
from rlx.comparison.wording import join_names

FEW = 10


def find_cautions(evidence: Evidence, *, choices: Choices, arms: Sequence[Arm], variants: Sequence[Variant]) -> list[Caution]:
    """All cautions, the gravest first."""
    runs, grouping = evidence.grouping.runs, evidence.grouping
    allowed = [
        Caution(f"allowed_{problem.kind}", f"compared although refused by default: {problem.text}")
        for problem in evidence.allowed
    ]
    return [
        *allowed,
        *_seeds(arms, runs),
        *_same(arms),
        *about_failures(runs, choices),
        *_shapes(arms),
        *_grouping(grouping),
        *about_budgets(grouping, choices),
        *about_records(runs, evidence.repeated, evidence.collected),
        *_selection(grouping, variants),
        *_costs(variants),
        *_pairing(arms, choices),
        *_declared(choices),
    ]


def _seeds(arms: Sequence[Arm], runs: Sequence[RunScore]) -> list[Caution]:
    found = []
    sizes = {arm.label: arm.n for arm in arms}
    least = min(sizes.values())
    if least < FEWEST:
        few = join_names([label for label, n in sizes.items() if n < FEWEST])
        text = f"fewer than {FEWEST} seeds ({few}): intervals and p are shown, but every verdict about them is exploratory"
        found.append(Caution("fewer_than_5_seeds", f"{text}; run {FEW}: {more_seeds(runs, min(sizes, key=lambda k: sizes[k]))}"))
    elif least < FEW:
        text = (
            f"{least} seeds find only large differences (of about {_detectable(least):.1f} standard deviations); {FEW} "
            f"are suggested"
        )
        found.append(Caution("fewer_than_10_seeds", text))
    if max(sizes.values()) >= UNEQUAL * least:
        text = (
            f"{least} to {max(sizes.values())} seeds: with skewed scores Welch's t errs then, so a permutation test "
            f"must agree with it"
        )
        found.append(Caution("unequal_seeds", text))
    return found


def _detectable(seeds: int) -> float:
    from rlx.comparison.statistics.power import detectable_difference

    return detectable_difference(error=float(np.sqrt(2 / seeds)), df=2 * seeds - 2)


def _same(arms: Sequence[Arm]) -> list[Caution]:
    found = []
    for arm in arms:
        flat = arm.n > 1 and all(float(np.ptp(scores)) <= 1e-12 for scores in arm.scores)
        if arm.same_run:
            text = f"{arm.label}: all {arm.n} runs agree in every metric at every step: is the seed used? They count as one run"
            found.append(Caution("identical_runs", text))
        elif flat:
            text = (
                f"{arm.label}: identical results over all {arm.n} seeds: is the seed used? A spread of 0 says nothing "
                f"about new seeds"
            )
            found.append(Caution("identical_results", text))
    return found


def _shapes(arms: Sequence[Arm]) -> list[Caution]:
    found = []
    alpha = 0.05 / sum(len(arm.scores) for arm in arms)  # or many normal variants would hold one that looks odd
    shaped = [(arm.label, describe_shape(scores, alpha=alpha)) for arm in arms for scores in arm.scores]
    named: dict[str, list[str]] = {}
    for label, shape in shaped:
        if shape is not None:
            named.setdefault(shape, []).append(label)
    for shape, labels in named.items():
        few = min(len(scores) for arm in arms if arm.label in labels for scores in arm.scores)
        about = next((cover for seeds, cover in MEAN_COVERAGE["skewed" if shape == "skewed" else "groups"] if few <= seeds), "")
        reason = f"a 95 % interval of the mean covers about {about} then" if about else "the mean may not be what matters then"
        text = (
            f"scores do not look normal ({shape}) for {join_names(labels)}: {reason}; look at the single runs, and compare "
            f"the IQM too"
        )
        found.append(Caution("not_normal", text))
    return found


def _grouping(grouping: Grouping) -> list[Caution]:
    found = []
    if grouping.mixed:
        keys = join_names(list(dict.fromkeys(key for keys in grouping.mixed.values() for key in keys)))
        text = (
            f"variants hold runs that differ in {keys}: runs of one seed were averaged, so a verdict is about the average setting"
        )
        found.append(Caution("mixed_variants", text))
    if grouping.beyond:
        text = (
            f"the algorithms also differ in {join_names(grouping.beyond)}: nobody can tell whether the algorithm or that "
            f"made the difference"
        )
        found.append(Caution("confounded", text))
    return found


def _selection(grouping: Grouping, variants: Sequence[Variant]) -> list[Caution]:
    settings = {
        name: sum(variant.algorithm == name for variant in variants) for name in {variant.algorithm for variant in variants}
    }
    most = max(settings, key=lambda name: settings[name])
    if settings[most] < 3:
        if not grouping.mixed:
            return []
        text = (
            "several settings stand behind a variant: these runs say how good they are on average; for the best one compare "
            "without by=, and confirm it on fresh seeds"
        )
        return [Caution("selected_on_same_seeds", text)]
    best = min(variants, key=lambda variant: variant.rank)
    top = max(best.seeds, default=0) + 1
    command = more_seeds(grouping.runs, best.label).replace("range(0,10)", f"range({top},{top + FEW})")
    text = (
        f"the best of {len(variants)} variants was picked on the seeds that it is judged by, which flatters it; "
        f"confirm it on fresh seeds: {command}"
    )
    return [Caution("selected_on_same_seeds", text)]


def _costs(variants: Sequence[Variant]) -> list[Caution]:
    tokens = {variant.label: variant.tokens for variant in variants if variant.tokens}
    if len(tokens) < 2:
        return []
    low, high = min(tokens, key=lambda k: tokens[k] or 0), max(tokens, key=lambda k: tokens[k] or 0)
    ratio = (tokens[high] or 0) / (tokens[low] or 1)
    if ratio < 2:
        return []
    return [Caution("unequal_cost", f"equal steps are not equal cost: {high} spent {ratio:.1f} times the tokens of {low}")]


def _pairing(arms: Sequence[Arm], choices: Choices) -> list[Caution]:
    if not choices.paired:
        return []
    shared = set.intersection(*(set(arm.seeds[0]) for arm in arms))
    lost = sum(len(set(arm.seeds[0]) - shared) for arm in arms)
    text = (
        "runs of one seed are compared as pairs, because paired=true was declared; that holds only if the seed "
        "drives both in the same way"
    )
    found = [Caution("paired", text)]
    if lost:
        found.append(
            Caution(
                "unpaired_seeds", f"{lost} runs have no partner of their seed in every other variant and drop out of some pairs"
            )
        )
    return found


def _declared(choices: Choices) -> list[Caution]:
    if choices.score == "best":
        text = (
            "the score is the best of all evaluations (score=best): a maximum of noise is higher than what a new "
            "evaluation would give"
        )
        return [Caution("best_score", text)]
    return []
