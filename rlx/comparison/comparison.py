"""The comparison of variants over seeds: from run records to verdicts, as dataclasses with `to_dict`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.comparison.cautions import Caution, find_cautions
from rlx.comparison.choices import Choices
from rlx.comparison.evidence import gather
from rlx.comparison.extra import (
    Curve,
    Profile,
    Search,
    Setting,
    config_differences,
    curves_of,
    profiles_of,
    prompt_difference,
    ranks_of,
    searches_of,
    settings_of,
)
from rlx.comparison.pair import Arm, Pair, compare_pair
from rlx.comparison.plain import plain
from rlx.comparison.scores import RunScore, Where
from rlx.comparison.statistics.bootstrap import first_rank_probability
from rlx.comparison.statistics.interval import Array
from rlx.comparison.statistics.rank import RankTest
from rlx.comparison.summary import Variant, arm_of, summarise
from rlx.comparison.variant import find_label
from rlx.comparison.verdict import FEWEST, judge, turned
from rlx.comparison.words import conclusion
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
    pairs: tuple[Pair, ...] = field(repr=False)
    cautions: tuple[Caution, ...] = field(repr=False)
    curves: tuple[Curve, ...] = field(repr=False)
    settings: tuple[Setting, ...] = field(repr=False)
    searches: tuple[Search, ...] = field(repr=False)
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

    def pair(self, a: str, b: str) -> Pair:
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
        """Plain values, as they stand in comparison.json; what is not a finite number is null."""
        kept = [item.name for item in dataclasses.fields(self) if item.name not in ("runs", "arms", "curves")]
        values = {name: plain(getattr(self, name)) for name in kept}
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            **values,
            "curves": [plain(curve) for curve in self.curves],
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
        settings=tuple(settings_of(counted, level=choices.level)) if len(tasks) == 1 else (),
        searches=tuple(searches_of(counted, stream.child("search").numpy(), level=choices.level)) if len(tasks) == 1 else (),
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


def _pairs(arms: Sequence[Arm], choices: Choices, stream: Stream) -> list[Pair]:
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


# `fail_if`: a verdict that fails a build, as in "hybrid < custom_dpo".

MEANING = {"<": "worse", ">": "better", "==": "equivalent"}


def holds(condition: str, comparison: Comparison) -> str | None:
    """The sentence of the pair if its verdict is what the condition names, else None. Refused below 5 seeds.

    `a < b`: a is worse than b. `a > b`: a is better. `a == b`: they are equivalent within the margin.
    """
    sign = next((sign for sign in ("==", "<", ">") if f" {sign} " in condition or condition.count(sign) == 1), None)
    if sign is None or condition.count(sign) != 1 or _is_other_sign(condition, sign):
        raise ConfigError(
            f"fail_if={condition!r}: write 'a < b' (a worse than b), 'a > b' or 'a == b', with the labels of two variants"
        )
    names = [part.strip() for part in condition.split(sign)]
    labels = [variant.label for variant in comparison.variants]
    if not all(names):
        raise ConfigError(f"fail_if={condition!r}: a variant's label must stand on both sides of {sign}: {'; '.join(labels)}")
    a, b = (find_label(name, labels, key="fail_if") for name in names)
    if a == b:
        raise ConfigError(f"fail_if={condition!r}: both sides are {a}")
    if sign == "==" and comparison.choices.margin is None:
        raise ConfigError(f"fail_if={condition!r}: equivalence needs a margin, margin=0.02 say")
    pair = comparison.pair(a, b)
    least = min(pair.n_a, pair.n_b)
    if least < FEWEST:
        few = "1 seed carries" if least == 1 else f"{least} seeds carry"
        raise EvidenceError(f"fail_if={condition!r}: {few} no verdict; run at least {FEWEST} of {a} and of {b}")
    return pair.words if pair.verdict == MEANING[sign] else None


def _is_other_sign(condition: str, sign: str) -> bool:
    """Whether the sign is a part of a longer one that means nothing here: <=, =>, ->."""
    before, _, after = condition.partition(sign)
    return before.endswith(("=", "!", "-", "<", ">")) or after.startswith(("=", "-", "<", ">"))
