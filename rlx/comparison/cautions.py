"""Cautions: what a reader must know before trusting a comparison, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import numpy as np

from rlx.comparison.choices import FEWEST, Choices, budget_of
from rlx.comparison.descriptive import config_differences
from rlx.comparison.evidence import Evidence
from rlx.comparison.grouping import Grouping
from rlx.comparison.pair import UNEQUAL, Arm, PairComparison, same_digests
from rlx.comparison.refusal import more_seeds
from rlx.comparison.run_cautions import (
    Caution,
    about_averaged_seeds,
    about_budgets,
    about_environments,
    about_failures,
    about_prompts,
    about_records,
    about_tasks,
)
from rlx.comparison.scores import RunScore
from rlx.comparison.statistics import FEW_PROMPTS_ERROR, MEAN_COVERAGE, UNLIKE_ERROR
from rlx.comparison.statistics.difference import detectable_difference
from rlx.comparison.statistics.interval import describe_shape
from rlx.comparison.variant import Variant
from rlx.comparison.wording import join_names, merged, quantity

_COMMANDS = 2  # number of commands shown if several variants lack seeds
FEW = 10
FEW_PROMPTS = 64
CORRELATED = 0.5  # correlation over shared seeds from which pairing is mentioned


def find_cautions(
    evidence: Evidence,
    *,
    choices: Choices,
    arms: Sequence[Arm],
    variants: Sequence[Variant],
    pairs: Sequence[PairComparison],
) -> list[Caution]:
    """All cautions, the most serious first."""
    runs, grouping = evidence.grouping.runs, evidence.grouping
    allowed = [
        Caution(f"allowed_{problem.kind}", f"compared although refused by default: {problem.text}")
        for problem in evidence.allowed
    ]
    return [
        *allowed,
        *_seeds(arms, runs, choices),
        *_same(arms),
        *_identical(grouping, pairs),
        *about_tasks(evidence.tasks, arms, pairs),
        *about_prompts(runs),
        *_losses(grouping, choices),
        *_prompts(arms, pairs, choices),
        *_few_prompts(pairs),
        *_left_out(arms, pairs, choices),
        *about_failures(runs, choices),
        *_units(arms),
        *_shapes(arms, choices),
        *_unlike(arms, choices),
        *_collapses(variants),
        *_gain(variants),
        *_grouping(grouping),
        *about_budgets(grouping, choices),
        *about_environments(runs),
        *about_records(runs, evidence.repeated, evidence.collected, choices),
        *about_averaged_seeds(grouping, evidence.counted),
        *_selection(grouping, variants),
        *_costs(variants),
        *_pairing(arms, pairs, choices),
        *_declared(choices, runs),
    ]


def _seeds(arms: Sequence[Arm], runs: Sequence[RunScore], choices: Choices) -> Iterator[Caution]:
    sizes = {arm.label: arm.n for arm in arms}
    least = min(sizes.values())
    if least < FEWEST:
        few = [label for label, n in sizes.items() if n < FEWEST]
        shown = "intervals and p are shown, but every verdict about them is exploratory"
        commands = " && ".join(more_seeds(runs, label) for label in few[:_COMMANDS])
        further = f" (and so the other {len(few) - _COMMANDS})" if len(few) > _COMMANDS else ""
        mend = f"run {FEW}{' of each' * (len(few) > 1)}: {commands}{further}"
        yield Caution("fewer_than_5_seeds", f"fewer than {FEWEST} seeds ({join_names(few)}): {shown}; {mend}")
    elif least < FEW:
        unit = "standard deviations of the differences" if choices.paired else "standard deviations"
        large = _detectable(least, is_paired=choices.paired)
        text = f"{least} seeds detect only large differences (of about {large:.1f} {unit}); {FEW} are suggested"
        yield Caution("fewer_than_10_seeds", text)
    if max(sizes.values()) >= UNEQUAL * least and not choices.paired:
        text = (
            f"unequal numbers of seeds ({least} to {max(sizes.values())}): with skewed scores a t test is unreliable, so a "
            f"permutation test over seeds must agree with it"
        )
        yield Caution("unequal_seeds", text)


def _detectable(seeds: int, *, is_paired: bool) -> float:
    arms = 1 if is_paired else 2
    return detectable_difference(error=float(np.sqrt(arms / seeds)), df=arms * (seeds - 1))


def _identical(grouping: Grouping, pairs: Sequence[PairComparison]) -> Iterator[Caution]:
    """Variants whose runs agree in every metric for each seed: the setting that differs has no effect."""
    alike = [pair for pair in pairs if pair.identical]
    differences = config_differences(grouping) if alike else {}
    for group in merged(alike):
        keys = [key for pair in group for key, values in differences.items() if values.get(pair.a) != values.get(pair.b)]
        name = join_names(keys) if keys else "the setting that differs"
        labels = join_names([label for pair in group for label in (pair.a, pair.b)])
        text = f"{labels}: identical runs, equal in every metric for every seed; {name} has no effect here"
        yield Caution("identical_variants", text)


def _prompts(arms: Sequence[Arm], pairs: Sequence[PairComparison], choices: Choices) -> Iterator[Caution]:
    """Verdicts that hold only on these prompts, because that was declared or because answers are missing."""
    alone = [pair for pair in pairs if not pair.over_prompts and pair.p is not None]
    if not alone:
        return
    number = next((f"these {pair.num_prompts} prompts" for pair in alone if pair.num_prompts), "these prompts")
    if choices.question == "chance" or choices.prompts == "fixed":
        why = "question=chance" if choices.question == "chance" else "prompts=fixed"
        text = f"verdicts hold for new seeds on {number} only ({why}): they may not hold on other prompts of the task"
        yield Caution("prompts_fixed", text)
        return
    silent, by_label = [arm.label for arm in arms if arm.tables is None], {arm.label: arm for arm in arms}
    differ = [f"{pair.a} and {pair.b}" for pair in alone if not same_digests(*(by_label[label] for label in (pair.a, pair.b)))]
    why = (
        f"no scores of several prompts that average to the score are recorded for {join_names(silent)}"
        if silent
        else f"the runs did not all answer the same prompts ({join_names(differ)})"
        if differ
        else "the runs answered unequal numbers of prompts"
    )
    text = (
        f"verdicts hold for new seeds on {number} only, because {why}: two algorithms that are equal on average but differ on "
        "single prompts are called different too often"
    )
    yield Caution("answers_missing", text)


def _few_prompts(pairs: Sequence[PairComparison]) -> Iterator[Caution]:
    """Too few prompts: a kind of prompt on which one variant fails may be missing, as a collapse may be among few seeds."""
    fewest = min((pair.num_prompts for pair in pairs if pair.over_prompts and pair.num_prompts), default=FEW_PROMPTS)
    if fewest >= FEW_PROMPTS:
        return
    text = (
        f"{fewest} prompts are few: if one variant alone fails on one prompt in ten, equal algorithms are called different too "
        f"often ({FEW_PROMPTS_ERROR} instead of 5 %); {FEW_PROMPTS} or more are suggested (evaluation.num_prompts)"
    )
    yield Caution("few_prompts", text)


def _losses(grouping: Grouping, choices: Choices) -> Iterator[Caution]:
    """A loss is compared that is a different quantity for each variant."""
    if not any(fnmatchcase(choices.metric, pattern) for pattern in ("*/loss", "*_loss")):
        return
    keys = [key for key in config_differences(grouping) if key.startswith(("algorithm", "loss"))]
    if not keys:
        return
    algorithms = list(dict.fromkeys(run.record.algorithm for run in grouping.runs))
    why = f"in {join_names(keys, most=3)}" if len(algorithms) == 1 else f"by their algorithm ({join_names(algorithms, most=4)})"
    text = (
        f"{choices.metric} is a different quantity for each variant, because they differ {why}: "
        "a lower loss does not mean a better policy; compare eval/score"
    )
    yield Caution("unlike_losses", text)


def _left_out(arms: Sequence[Arm], pairs: Sequence[PairComparison], choices: Choices) -> Iterator[Caution]:
    total = len(arms) * (len(arms) - 1) // 2
    if choices.baseline is not None or len(pairs) == total:
        return
    text = (
        f"of {total} pairs only those with the best variant are compared, with p adjusted for all of them; "
        "baseline= chooses another variant to compare with, where= and by= leave fewer"
    )
    yield Caution("pairs_left_out", text)


def _units(arms: Sequence[Arm]) -> Iterator[Caution]:
    """Some scores are in percent and others in fractions."""
    spans = {arm.label: np.concatenate([np.asarray(scores) for scores in arm.scores]) for arm in arms}
    fractions = [label for label, scores in spans.items() if scores.min() >= 0 and scores.max() <= 1]
    percents = [label for label, scores in spans.items() if scores.min() >= 0 and np.median(scores) > 1.5 and scores.max() <= 100]
    if not fractions or not percents:
        return
    text = f"{join_names(percents)} look like percent and {join_names(fractions)} like fractions: convert them to one unit first"
    yield Caution("unequal_units", text)


def _unlike(arms: Sequence[Arm], choices: Choices) -> Iterator[Caution]:
    """Score distributions of different shapes: the error rate of the verdict was measured for equal shapes."""
    if choices.question == "chance" or choices.paired or len(arms) < 2:  # the paired test uses differences of runs
        return
    alpha = choices.alpha / len(arms)  # otherwise one of many normal variants would look odd
    shapes = {arm.label: describe_shape(arm.scores[0], alpha=alpha) for arm in arms if len(arm.scores) == 1}
    odd = [label for label, shape in shapes.items() if shape is not None]
    plain = [label for label, shape in shapes.items() if shape is None]
    if not odd or (not plain and len(set(shapes.values())) == 1):
        return
    beside = f"unlike {join_names(plain)}" if plain else "each in its own way"
    told = join_names([str(shapes[label]) for label in odd])
    text = (
        f"the scores of {join_names(odd)} are {told}, {beside}: means of unlike distributions are called different too often "
        f"({UNLIKE_ERROR} instead of 5 % where one side collapses or is skewed); question=chance asks whether a run of one "
        "beats a run of the other"
    )
    yield Caution("unlike_shapes", text)


def _collapses(variants: Sequence[Variant]) -> Iterator[Caution]:
    """Too few runs to observe a collapse that happens in one of five."""
    unseen = [variant for variant in variants if variant.collapsed == 0 and 0.8**variant.n > 0.05]
    if not unseen:
        return
    least = min(variant.n for variant in unseen)
    seeds = quantity(least, "seed")
    text = (
        f"no run of {join_names([variant.label for variant in unseen])} collapsed, but with {seeds} a collapse of 20 % of runs "
        f"goes unseen with probability {100 * 0.8**least:.0f} %"
    )
    yield Caution("collapse_unseen", text)


def _gain(variants: Sequence[Variant]) -> Iterator[Caution]:
    """Variants that are not shown to be better than the untrained policy."""
    without = [v.label for v in variants if v.gain_interval is not None and v.gain_interval.low <= 0 <= v.gain_interval.high]
    if not without:
        return
    text = f"{join_names(without)}: not shown to differ from the untrained policy"
    yield Caution("no_gain", text)


def _same(arms: Sequence[Arm]) -> Iterator[Caution]:
    for arm in (arm for arm in arms if arm.same_run):
        text = f"{arm.label}: all {arm.n} runs agree in every metric at every step: is the seed used? They count as one run"
        yield Caution("identical_runs", text)
    varied = [arm for arm in arms if arm.n > 1 and not arm.same_run]
    flat = [arm.label for arm in varied if all(float(np.ptp(scores)) <= 1e-12 for scores in arm.scores)]
    if flat:
        text = (
            f"{join_names(flat)}: identical results over all seeds: is the seed used? A spread of 0 says nothing about new seeds"
        )
        yield Caution("identical_results", text)


def _shapes(arms: Sequence[Arm], choices: Choices) -> Iterator[Caution]:
    if choices.question == "chance":
        return
    alpha = 0.05 / sum(len(arm.scores) for arm in arms)  # otherwise one of many normal variants would look odd
    shaped = [(arm.label, describe_shape(scores, alpha=alpha)) for arm in arms for scores in arm.scores]
    named: dict[str, list[str]] = {}
    for label, shape in shaped:
        if shape is not None:
            named.setdefault(shape, []).append(label)
    for shape, labels in named.items():
        few = min(len(scores) for arm in arms if arm.label in labels for scores in arm.scores)
        about = next((cover for seeds, cover in MEAN_COVERAGE["skewed" if shape == "skewed" else "groups"] if few <= seeds), "")
        cover = f"a 95 % interval of the mean may then cover only {about}"
        reason = cover if about else "the mean may not be what matters"
        text = (
            f"the scores of {join_names(labels)} do not look normal ({shape}): {reason}; look at the individual runs, and "
            f"compare the IQM too"
        )
        yield Caution("not_normal", text)


def _grouping(grouping: Grouping) -> Iterator[Caution]:
    if grouping.mixed:
        keys = join_names(list(dict.fromkeys(key for keys in grouping.mixed.values() for key in keys)))
        text = f"variants contain runs that differ in {keys}: runs of one seed were averaged, so a verdict is about their average"
        yield Caution("mixed_variants", text)
    if grouping.beyond:
        text = (
            f"the algorithms also differ in {join_names(grouping.beyond)}: that may have made the difference, and not the "
            f"algorithm"
        )
        yield Caution("confounded", text)


def _selection(grouping: Grouping, variants: Sequence[Variant]) -> Iterator[Caution]:
    settings = {
        name: sum(variant.algorithm == name for variant in variants) for name in {variant.algorithm for variant in variants}
    }
    most = max(settings, key=lambda name: settings[name])
    if settings[most] >= 3:
        best = min(variants, key=lambda variant: variant.rank)
        if sum(variant.mean == best.mean for variant in variants) > 1:  # among equals none was selected
            return
        command = more_seeds(grouping.runs, best.label, first=max(best.seeds, default=0) + 1)
        text = (
            f"the best of {len(variants)} variants was selected on the seeds that it is judged by, so its score is biased up; "
            f"confirm it on fresh seeds: {command}"
        )
        yield Caution("selected_on_same_seeds", text)
    elif grouping.mixed:
        text = (
            "a variant contains several settings: these runs show how good they are on average; to find the best one, compare "
            "without by=, and confirm it on fresh seeds"
        )
        yield Caution("selected_on_same_seeds", text)


def _costs(variants: Sequence[Variant]) -> Iterator[Caution]:
    tokens = {variant.label: variant.tokens for variant in variants if variant.tokens}
    if len(tokens) < 2:
        return
    low, high = min(tokens, key=lambda k: tokens[k] or 0), max(tokens, key=lambda k: tokens[k] or 0)
    ratio = (tokens[high] or 0) / (tokens[low] or 1)
    if ratio >= 2:
        yield Caution("unequal_cost", f"equal steps are not equal cost: {high} spent {ratio:.1f} times the tokens of {low}")


def _pairing(arms: Sequence[Arm], pairs: Sequence[PairComparison], choices: Choices) -> Iterator[Caution]:
    if not choices.paired:
        yield from _pairing_possible(pairs)
        return
    shared = set.intersection(*(set(arm.seeds[0]) for arm in arms))
    lost = sum(len(set(arm.seeds[0]) - shared) for arm in arms)
    text = (
        "runs of one seed are compared as pairs, because paired=true was declared; that is valid only if the seed "
        "affects both in the same way"
    )
    yield Caution("paired", text)
    if lost:
        text = f"runs that lack a partner with their seed in some other variant, and are left out of those pairs: {lost}"
        yield Caution("unpaired_seeds", text)


def _pairing_possible(pairs: Sequence[PairComparison]) -> Iterator[Caution]:
    """The correlation over shared seeds, and when pairing may be declared; the correlation itself never decides it."""
    alike = [p for p in pairs if p.seed_correlation is not None and p.seed_correlation >= CORRELATED and p.shared_seeds >= FEWEST]
    shown = [f"{p.a} and {p.b} {p.seed_correlation:.2f} over {p.shared_seeds} seeds" for p in alike if not p.identical]
    if not shown:
        return
    text = (
        f"scores of shared seeds correlate ({join_names(shown, most=3)}); if a seed gives both algorithms the same data in "
        "the same order, paired=true compares them seed by seed. Declare it for that reason, not because of this figure: "
        "choosing by the data raises the error rate"
    )
    yield Caution("pairing_possible", text)


def _declared(choices: Choices, runs: Sequence[RunScore]) -> Iterator[Caution]:
    if choices.at is not None:
        text = (
            f"scores come from the last evaluation within {choices.at}{_spent_within(runs, choices.at)}: evaluate more often "
            "for a closer budget"
        )
        yield Caution("at_budget", text)
    if choices.score == "best":
        text = (
            "the score is the best of all evaluations (score=best): the maximum of noisy evaluations is higher than what a new "
            "evaluation would give"
        )
        yield Caution("best_score", text)


def _spent_within(runs: Sequence[RunScore], at: str) -> str:
    """The amount that each variant had spent at the counted evaluations, in the unit of the budget."""
    unit, parts = budget_of(at)[0], []
    for label in dict.fromkeys(run.variant for run in runs):
        spent = [
            getattr(run, "step" if unit == "steps" else unit) for run in runs if run.variant == label and run.score is not None
        ]
        known = [value for value in spent if value is not None]
        if known:
            parts.append(f"{label} {np.mean(known):,.{2 if unit == 'seconds' else 0}f}")
    return f" ({unit}: {join_names(parts)})" if parts else ""
