"""The comparison of variants over seeds: from run records to verdicts, as dataclasses with `to_dict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.comparison.cautions import find_cautions
from rlx.comparison.choices import FEWEST, Choices, is_spent
from rlx.comparison.descriptive import (
    Curve,
    KeyImportance,
    Profile,
    SettingScore,
    TuningCurve,
    config_differences,
    curves_of,
    importances,
    profiles_of,
    prompt_difference,
    ranks_of,
    setting_scores,
    tuning_curves,
)
from rlx.comparison.evidence import Evidence, gather
from rlx.comparison.grouping import find_label
from rlx.comparison.pair import Arm, PairComparison, compare_pair
from rlx.comparison.refusal import Where
from rlx.comparison.run_cautions import Caution
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import to_plain
from rlx.comparison.statistics.crossed import prompt_covariance
from rlx.comparison.statistics.difference import holm
from rlx.comparison.statistics.interval import Array, mean
from rlx.comparison.statistics.rank import RankTest, at_most, first_rank_probability
from rlx.comparison.variant import UNTRAINED, Variant, add_collapses, add_gain, arm_of, summarise, untrained_arm
from rlx.comparison.wording import conclusion, verdict_sentence
from rlx.errors import EvidenceError

if TYPE_CHECKING:
    from rlx.seeding import Stream

SCHEMA = "rlx.comparison"
SCHEMA_VERSION = 1
MOST_PAIRS = 1_000  # above this, only the pairs with the best variant are compared


@dataclass(frozen=True)
class Comparison:
    """The results of a comparison. variants are ranked, best first; a pair's difference is a - b.

    untrained: the row of the untrained policy, all runs at step 0; null if they were not evaluated there.

    `to_dict` contains everything except `runs` and `arms`, which hold the records and arrays.
    """

    choices: Choices = field(repr=False)
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...] = field(repr=False)
    pairs: tuple[PairComparison, ...] = field(repr=False)
    cautions: tuple[Caution, ...] = field(repr=False)
    curves: tuple[Curve, ...] = field(repr=False)
    settings: tuple[SettingScore, ...] = field(repr=False)
    searches: tuple[TuningCurve, ...] = field(repr=False)
    importances: tuple[KeyImportance, ...] = field(repr=False)
    profiles: tuple[Profile, ...] = field(repr=False)
    ranks: RankTest | None = field(repr=False)
    config_differences: Mapping[str, Mapping[str, Sequence[Any]]] = field(repr=False)
    prompt_differences: Mapping[str, tuple[float, float]] = field(repr=False)
    runs: tuple[RunScore, ...] = field(repr=False)
    arms: tuple[Arm, ...] = field(repr=False)
    untrained: Variant | None = field(default=None, repr=False)
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The conclusion and the verdicts, as shown in the terminal."""
        return "\n".join([conclusion(self.variants, self.pairs), *(f"  {pair.words}" for pair in self.pairs)])

    def scores(self, label: str, task: str | None = None) -> Array:
        """A variant's scores [S], one per seed, for your own plots; with several tasks, name one."""
        arm = next(arm for arm in self.arms if arm.label == find_label(label, [arm.label for arm in self.arms], key="scores"))
        if task is None and len(self.tasks) > 1:
            raise EvidenceError(f"there are {len(self.tasks)} tasks; name one of {', '.join(self.tasks)}")
        return arm.scores[self.tasks.index(task) if task is not None else 0]

    def pair(self, a: str, b: str) -> PairComparison:
        """The comparison of a with b, in this order."""
        labels = [variant.label for variant in self.variants]
        a, b = find_label(a, labels, key="pair"), find_label(b, labels, key="pair")
        for pair in self.pairs:
            if (pair.a, pair.b) == (a, b):
                return pair
            if (pair.a, pair.b) == (b, a):
                return swapped(pair)
        raise EvidenceError(f"{a} and {b} were not compared; leave out baseline={self.choices.baseline}, or name another one")

    def to_dict(self) -> dict[str, Any]:
        """Serializable values, as in comparison.json; non-finite numbers are null."""
        kept = [item.name for item in dataclasses.fields(self) if item.name not in ("runs", "arms", "curves")]
        values = {name: to_plain(getattr(self, name)) for name in kept}
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            **values,
            "curves": [to_plain(curve) for curve in self.curves],
            "runs": [run.to_dict() for run in self.runs],
        }


def compare(runs: Where | Iterable[Where], **choices: Any) -> Comparison:
    """Compare run records, or the runs at or below paths and patterns.

    choices: the keys of conf/compare.yaml that affect the result: by, baseline, margin, paired, failed, allow, ...
    """
    return compare_runs(runs, Choices.declared(**choices))


def compare_runs(where: Where | Iterable[Where], choices: Choices, *, command: Sequence[str] = ()) -> Comparison:
    """Compare the runs at or below paths and patterns, or given as records, by declared choices."""
    from rlx.seeding import Stream  # imported only here; it can create torch generators, but does not import torch

    evidence, stream = gather(where, choices), Stream(0, ("compare",))
    tasks, lower = evidence.tasks, choices.is_lower_better
    of_one_task = evidence.counted if len(tasks) == 1 else []  # settings are compared on a single task only
    sign = -1 if lower else 1
    arms = [arm_of(label, evidence.counted_by_variant[label], tasks) for label in evidence.labels]
    arms.sort(key=lambda arm: -sign * mean(arm.scores))
    variants = [_variant(arm, evidence, choices, stream.child("variant", arm.label).numpy()) for arm in arms]
    pairs = _pairs(arms, choices, stream)
    variants = _with_chances(variants, arms, pairs, choices, stream.child("rank").numpy())
    of = evidence.counted_by_variant
    prompts = {f"{pair.a} - {pair.b}": prompt_difference(of[pair.a], of[pair.b]) for pair in pairs}
    return Comparison(
        choices=choices,
        tasks=tuple(tasks),
        variants=tuple(variants),
        pairs=tuple(pairs),
        cautions=tuple(find_cautions(evidence, choices=choices, arms=arms, variants=variants, pairs=pairs)),
        curves=tuple(curves_of(evidence.done, level=choices.level)),
        settings=tuple(setting_scores(of_one_task, level=choices.level)),
        searches=tuple(tuning_curves(of_one_task, stream.child("search").numpy(), level=choices.level, lower_is_better=lower)),
        importances=tuple(importances(of_one_task)),
        profiles=tuple(profiles_of(arms, stream.child("profile").numpy(), level=choices.level)),
        ranks=ranks_of(arms, alpha=choices.alpha, lower_is_better=lower),
        config_differences=config_differences(evidence.grouping),
        prompt_differences={key: value for key, value in prompts.items() if value is not None},
        runs=tuple(evidence.done),
        arms=tuple(arms),
        untrained=_untrained(evidence, choices, stream.child("untrained").numpy()),
        command=tuple(command),
    )


def _variant(arm: Arm, evidence: Evidence, choices: Choices, rng: np.random.Generator) -> Variant:
    """A variant's row, with its gain over the untrained policy and its collapses."""
    runs, counted = evidence.of(arm.label)
    row = summarise(arm, runs, counted, evidence.tasks, choices, rng)
    if not is_spent(choices.metric):
        row = add_gain(row, arm, untrained_arm(arm, counted, evidence.tasks), choices)
    elif choices.collapse is None:
        return row
    return add_collapses(row, counted, choices)


def _untrained(evidence: Evidence, choices: Choices, rng: np.random.Generator) -> Variant | None:
    """The row of the untrained policy: every run's score before training, one per seed."""
    kept = [
        replace(run, variant=UNTRAINED, score=run.start, answers=run.start_answers, imputed=False) for run in evidence.counted
    ]
    if is_spent(choices.metric) or any(run.start is None for run in kept):
        return None
    row = summarise(arm_of(UNTRAINED, kept, evidence.tasks), kept, kept, evidence.tasks, choices, rng)
    nothing = dict.fromkeys(("steps", "tokens", "seconds", "kl", "area_under_curve", "area_interval", "evaluation_error"))
    if row.std == 0:  # one policy, not several seeds: its spread is unknown
        nothing |= {"interval": None, "iqm_interval": None}
    return replace(row, algorithm="", failed=0, **nothing)  # type: ignore[arg-type]


def _with_chances(
    variants: Sequence[Variant], arms: Sequence[Arm], pairs: Sequence[PairComparison], choices: Choices, rng: np.random.Generator
) -> list[Variant]:
    """Ranks, and the probability of being first, limited by the adjusted p of the pairs and by `level` without a winner."""
    sign = -1 if choices.is_lower_better else 1
    rows = [replace(row, rank=1 + sum(sign * other.mean > sign * row.mean for other in variants)) for row in variants]
    if len(arms) < 2 or any(arm.n < 2 for arm in arms) or choices.question == "chance":  # not a question about means
        return rows
    tables = [list(arm.tables) for arm in arms if arm.tables is not None]
    shared = len(tables) == len(arms) and all(len({table.shape[1] for table in task}) == 1 for task in zip(*tables, strict=True))
    prompts = None
    if choices.prompts == "random" and shared:
        prompts = np.sum([prompt_covariance(task) for task in zip(*tables, strict=True)], axis=0) / len(tables[0]) ** 2
    draws = max(2_000, min(20_000, 400_000 // len(arms)))
    chances = first_rank_probability([[sign * x for x in arm.scores] for arm in arms], rng, prompts=prompts, num_draws=draws)
    limits = np.ones(len(arms))
    for place, arm in enumerate(arms):
        mine = [pair for pair in pairs if arm.label in (pair.a, pair.b)]
        for pair in mine:
            limits[place] = min(limits[place], 1 - (1.0 if pair.p_adjusted is None else pair.p_adjusted) / 2)
        won = sum(pair.verdict == ("better" if pair.a == arm.label else "worse") for pair in mine)
        if won < len(arms) - 1:
            limits[place] = min(limits[place], choices.level - 0.005)
    chances = at_most(chances, limits)
    return [replace(row, first_probability=float(chance)) for row, chance in zip(rows, chances, strict=True)]


def _pairs(arms: Sequence[Arm], choices: Choices, stream: Stream) -> list[PairComparison]:
    """Each variant against the baseline, or all pairs, the better mean first, with verdicts.

    With very many pairs, only those with the best variant; Holm's adjustment still counts all pairs, so that selecting the best
    one by its scores does not raise the error rate.
    """
    labels = [arm.label for arm in arms]
    if choices.baseline is not None:
        base = arms[labels.index(find_label(choices.baseline, labels, key="baseline"))]
        couples = [(arm, base) for arm in arms if arm is not base]
        total = len(couples)
    else:
        total = len(arms) * (len(arms) - 1) // 2
        first = arms if total <= MOST_PAIRS else arms[:1]
        couples = [(arm, other) for place, arm in enumerate(first) for other in arms[place + 1 :]]
    return judge(
        [compare_pair(a, b, choices, comparisons=total, rng=stream.child("pair", a.label, b.label).numpy()) for a, b in couples],
        total=total,
    )


# The verdict of each pair, adjusted for all pairs of the comparison.


def judge(pairs: Sequence[PairComparison], *, total: int | None = None) -> list[PairComparison]:
    """The verdict of each pair: Holm's adjustment over all differences, and over all equivalences.

    total: the number of possible pairs, if only some were compared.

    Two algorithms with equal score distributions are called better or worse in at most 6 % of comparisons. With equal means but
    different shapes it happens more often: `rlx guide statistics` says how often, and which other questions to ask.
    """
    differ = holm([pair.p for pair in pairs], total=total)
    agree = holm([pair.p_equivalent for pair in pairs], total=total)
    judged = []
    for pair, p, same in zip(pairs, differ, agree, strict=True):
        pair = replace(pair, p_adjusted=p, p_equivalent=same)
        verdict = _verdict(pair)
        judged.append(replace(pair, verdict=verdict, words=verdict_sentence(replace(pair, verdict=verdict))))
    return judged


def _verdict(pair: PairComparison) -> str:
    alpha = 1 - pair.level
    if min(pair.n_a, pair.n_b) < FEWEST:
        return "exploratory"
    if pair.p_equivalent is not None and pair.p_equivalent < alpha:
        return "equivalent"
    gap = pair.probability_of_improvement - 0.5 if pair.question == "chance" else pair.difference
    if pair.p_adjusted is not None and pair.p_adjusted < alpha and gap != 0:
        is_higher = gap > 0
        return "better" if is_higher == (pair.question == "chance" or not pair.lower_is_better) else "worse"
    return "inconclusive"


def swapped(pair: PairComparison) -> PairComparison:
    """The same pair with a and b swapped."""
    opposite = {"better": "worse", "worse": "better"}
    effect, chance = pair.effect_size_interval, pair.probability_of_improvement_interval
    new = replace(
        pair,
        a=pair.b,
        b=pair.a,
        n_a=pair.n_b,
        n_b=pair.n_a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        statistic=None if pair.statistic is None else -pair.statistic,
        effect_size=None if pair.effect_size is None else -pair.effect_size,
        effect_size_interval=None if effect is None else replace(effect, low=-effect.high, high=-effect.low),
        probability_of_improvement=1 - pair.probability_of_improvement,
        probability_of_improvement_interval=None if chance is None else replace(chance, low=1 - chance.high, high=1 - chance.low),
        components=None
        if pair.components is None
        else tuple(
            replace(part, seed=part.seed[::-1], residual=part.residual[::-1], seeds=part.seeds[::-1]) for part in pair.components
        ),
        verdict=opposite.get(pair.verdict, pair.verdict),
    )
    return replace(new, words=verdict_sentence(new))
