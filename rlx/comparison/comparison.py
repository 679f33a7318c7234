"""The comparison of variants over seeds: from run records to verdicts, as dataclasses with `to_dict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.comparison.cautions import find_cautions
from rlx.comparison.choices import Choices
from rlx.comparison.collection import Where
from rlx.comparison.descriptive import (
    Curve,
    Profile,
    SettingScore,
    TuningCurve,
    config_differences,
    curves_of,
    profiles_of,
    prompt_difference,
    ranks_of,
    setting_scores,
    tuning_curves,
)
from rlx.comparison.evidence import gather
from rlx.comparison.grouping import find_label
from rlx.comparison.pair import Arm, PairComparison, compare_pair
from rlx.comparison.run_cautions import Caution
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import to_plain
from rlx.comparison.statistics.bootstrap import first_rank_probability
from rlx.comparison.statistics.interval import Array
from rlx.comparison.statistics.rank import RankTest
from rlx.comparison.variant import Variant, arm_of, summarise
from rlx.comparison.verdict import judge, turned
from rlx.comparison.wording import conclusion
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, EvidenceError

if TYPE_CHECKING:
    from rlx.seeding import Stream
SCHEMA = "rlx.comparison"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """All that a comparison found. variants are ranked, best first; a pair's difference is a - b.

    Everything but `runs` and `arms`, which hold the records and arrays, is in `to_dict`.
    """

    choices: Choices = field(repr=False)
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...] = field(repr=False)
    pairs: tuple[PairComparison, ...] = field(repr=False)
    cautions: tuple[Caution, ...] = field(repr=False)
    curves: tuple[Curve, ...] = field(repr=False)
    settings: tuple[SettingScore, ...] = field(repr=False)
    searches: tuple[TuningCurve, ...] = field(repr=False)
    profiles: tuple[Profile, ...] = field(repr=False)
    ranks: RankTest | None = field(repr=False)
    config_differences: Mapping[str, Mapping[str, Sequence[Any]]] = field(repr=False)
    prompt_differences: Mapping[str, tuple[float, float]] = field(repr=False)
    runs: tuple[RunScore, ...] = field(repr=False)
    arms: tuple[Arm, ...] = field(repr=False)
    command: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The answer and the verdicts, as the terminal says them."""
        return "\n".join([conclusion(self.variants, self.pairs), *(f"  {pair.words}" for pair in self.pairs)])

    def scores(self, label: str, task: str | None = None) -> Array:
        """A variant's scores [S], one a seed, for one's own plots; with several tasks, name one."""
        arm = next(arm for arm in self.arms if arm.label == find_label(label, [arm.label for arm in self.arms], key="scores"))
        if task is None and len(self.tasks) > 1:
            raise EvidenceError(f"there are {len(self.tasks)} tasks; name one of {', '.join(self.tasks)}")
        return arm.scores[self.tasks.index(task) if task is not None else 0]

    def pair(self, a: str, b: str) -> PairComparison:
        """What is known about a against b, whichever way round it was compared."""
        labels = [variant.label for variant in self.variants]
        a, b = find_label(a, labels, key="pair"), find_label(b, labels, key="pair")
        for pair in self.pairs:
            if (pair.a, pair.b) == (a, b):
                return pair
            if (pair.a, pair.b) == (b, a):
                return turned(pair)
        raise EvidenceError(f"{a} and {b} were not compared; leave out baseline={self.choices.baseline}, or name another one")

    def to_dict(self) -> dict[str, Any]:
        """Serializable values, as they stand in comparison.json; what is not a finite number is null."""
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
    """The comparison of run records, or of the runs at or below paths and patterns.

    choices: the keys of conf/compare.yaml that say how to compare: by, baseline, margin, paired, failed, allow, ...
    """
    from rlx.config.compose import read_yaml
    from rlx.config.schema import conf_dir

    known = Choices.__dataclass_fields__
    for name in choices:
        if name not in known:
            raise ConfigError(
                f"{name} is no choice of a comparison{did_you_mean(nearest(name, known))}; there are {', '.join(known)}"
            )
    defaults = {str(key): value for key, value in read_yaml(conf_dir() / "compare.yaml").items()}
    return compare_runs(runs, Choices.of({**defaults, **choices}))


def compare_runs(where: Where | Iterable[Where], choices: Choices, *, command: Sequence[str] = ()) -> Comparison:
    """Compares the runs at or below paths and patterns, or given as records, by declared choices."""
    from rlx.seeding import Stream  # where torch generators come from too: imported only here, and it imports no torch

    evidence, stream = gather(where, choices), Stream(0, ("compare",))
    counted, tasks = evidence.counted, evidence.tasks
    arms = [arm_of(label, counted, tasks) for label in evidence.labels]
    variants = [
        summarise(
            arm,
            *evidence.of(arm.label),
            tasks,
            level=choices.level,
            target=choices.target,
            rng=stream.child("variant", arm.label).numpy(),
            num_resamples=choices.num_resamples,
        )
        for arm in arms
    ]
    variants = _ranked(variants, arms, stream.child("rank").numpy())
    arms = [next(arm for arm in arms if arm.label == variant.label) for variant in variants]
    pairs = _pairs(arms, choices, stream)
    prompts = {f"{pair.a} - {pair.b}": prompt_difference(pair.a, pair.b, counted) for pair in pairs}
    return Comparison(
        choices=choices,
        tasks=tuple(tasks),
        variants=tuple(variants),
        pairs=tuple(pairs),
        cautions=tuple(find_cautions(evidence, choices=choices, arms=arms, variants=variants)),
        curves=tuple(curves_of(evidence.done, level=choices.level)),
        settings=tuple(setting_scores(counted, level=choices.level)) if len(tasks) == 1 else (),
        searches=tuple(tuning_curves(counted, stream.child("search").numpy(), level=choices.level)) if len(tasks) == 1 else (),
        profiles=tuple(profiles_of(arms, stream.child("profile").numpy(), level=choices.level)),
        ranks=ranks_of(arms, alpha=choices.alpha),
        config_differences=config_differences(evidence.grouping),
        prompt_differences={key: value for key, value in prompts.items() if value is not None},
        runs=tuple(evidence.done),
        arms=tuple(arms),
        command=tuple(command),
    )


def _ranked(variants: Sequence[Variant], arms: Sequence[Arm], rng: np.random.Generator) -> list[Variant]:
    """Best mean first, with the bootstrap probability of being first."""
    chances = first_rank_probability([arm.scores for arm in arms], rng) if len(arms) > 1 else [None]
    rows = [
        replace(variant, first_probability=None if chance is None or arm.n < 2 else float(chance))
        for variant, arm, chance in zip(variants, arms, chances, strict=True)
    ]
    rows.sort(key=lambda variant: -variant.mean)
    return [replace(variant, rank=1 + sum(other.mean > variant.mean for other in rows)) for variant in rows]


def _pairs(arms: Sequence[Arm], choices: Choices, stream: Stream) -> list[PairComparison]:
    """Each against the baseline, or all pairs, the better mean first; then the verdicts."""
    labels = [arm.label for arm in arms]
    if choices.baseline is not None:
        base = arms[labels.index(find_label(choices.baseline, labels, key="baseline"))]
        couples = [(arm, base) for arm in arms if arm is not base]
    else:
        couples = [(arm, other) for place, arm in enumerate(arms) for other in arms[place + 1 :]]
    return judge(
        [
            compare_pair(
                a,
                b,
                is_paired=choices.paired,
                margin=choices.margin,
                level=choices.level,
                comparisons=len(couples),
                rng=stream.child("pair", a.label, b.label).numpy(),
            )
            for a, b in couples
        ]
    )
