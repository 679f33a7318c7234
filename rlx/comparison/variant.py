"""One variant by itself: scores, aggregates, costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlx.comparison.pair import Arm
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.bootstrap import bootstrap_interval, row_iqm, row_optimality_gap
from rlx.comparison.statistics.interval import Interval, deviation, iqm, iqm_interval, mean, mean_interval, optimality_gap


@dataclass(frozen=True)
class Variant(Serializable):
    """A row of the table. Means of costs are over completed runs; null where the records do not say.

    scores: one a seed and task, in the order of seeds; a seed's runs of several configs are averaged. failed: runs that failed or
    did not finish. interval: of the mean; null for one seed. evaluation_error: standard error over prompts within a run, which
    is a part of what seeds differ by, not to be added to it. optimality_gap: over several tasks only.
    """

    label: str
    algorithm: str
    runs: int
    n: int
    seeds: tuple[int, ...]
    failed: int
    imputed: int
    scores: tuple[float, ...]
    scores_by_task: Mapping[str, tuple[float, ...]]
    mean: float
    std: float
    iqm: float
    interval: Interval | None
    iqm_interval: Interval | None
    optimality_gap: float | None
    optimality_gap_interval: Interval | None
    best: float
    worst: float
    area_under_curve: float | None
    area_interval: Interval | None
    steps: float | None
    tokens: float | None
    seconds: float | None
    kl: float | None
    evaluation_error: float | None
    rank: int = 0
    first_probability: float | None = None


def arm_of(label: str, counted: Sequence[RunScore], tasks: Sequence[str]) -> Arm:
    """A variant's scores per task, one a seed: a seed's runs of several configs are averaged, for they are no further seeds."""
    scores, seeds = [], []
    prints: list[int] = []
    for task in tasks:
        by_seed: dict[int, list[RunScore]] = {}
        for run in counted:
            if run.variant == label and run.task == task:
                by_seed.setdefault(run.seed, []).append(run)
        seeds.append(sorted(by_seed))
        scores.append(np.array([np.mean([run.score for run in by_seed[seed]]) for seed in seeds[-1]]))
        prints += [runs[0].fingerprint for runs in by_seed.values() if len(runs) == 1 and len(runs[0].values)]
    total = sum(len(s) for s in scores)
    same = len(tasks) == 1 and len(prints) == total > 1 and len(set(prints)) == 1
    return Arm(label, scores, seeds, same)


def summarise(
    arm: Arm, runs: Sequence[RunScore], counted: Sequence[RunScore], tasks: Sequence[str], *, level: float, target: float,
    rng: np.random.Generator, num_resamples: int,
) -> Variant:  # fmt: skip
    """The row of one variant. runs: all of its runs; counted: those with a score, imputed ones among them."""
    everything = np.concatenate(list(arm.scores))
    several, enough = len(arm.scores) > 1, arm.n >= 2
    done = [run for run in runs if run.state == "completed"]
    areas = np.array([run.area for run in done if math.isfinite(run.area)])
    gap = row_optimality_gap(target)
    return Variant(
        label=arm.label,
        algorithm=runs[0].record.algorithm,
        runs=len(runs),
        n=arm.n,
        seeds=tuple(sorted({seed for seeds in arm.seeds for seed in seeds})),
        failed=sum(run.state != "completed" for run in runs),
        imputed=sum(run.imputed for run in counted),
        scores=tuple(map(float, everything)),
        scores_by_task={task: tuple(map(float, scores)) for task, scores in zip(tasks, arm.scores, strict=True)},
        mean=mean(arm.scores),
        std=_spread(arm),
        iqm=iqm(everything),
        interval=mean_interval(arm.scores, level=level) if enough else None,
        iqm_interval=_iqm_interval(arm, level=level, rng=rng, num_resamples=num_resamples) if enough else None,
        optimality_gap=optimality_gap(everything, target=target) if several else None,
        optimality_gap_interval=bootstrap_interval(arm.scores, gap, rng, level=level, num_resamples=num_resamples)
        if several and enough
        else None,
        best=float(everything.max()),
        worst=float(everything.min()),
        area_under_curve=float(areas.mean()) if len(areas) else None,
        area_interval=mean_interval([areas], level=level) if len(areas) > 1 and not several else None,
        steps=_average([float(run.step) for run in done]),
        tokens=_average([run.tokens for run in done]),
        seconds=_average([run.seconds for run in done]),
        kl=_average([run.kl for run in done]),
        evaluation_error=_average([run.prompt_error for run in done]),
    )


def _iqm_interval(arm: Arm, *, level: float, rng: np.random.Generator, num_resamples: int) -> Interval:
    if len(arm.scores) == 1:
        return iqm_interval(arm.scores[0], level=level)
    return bootstrap_interval(arm.scores, row_iqm, rng, level=level, num_resamples=num_resamples)


def _spread(arm: Arm) -> float:
    """Standard deviation over seeds; over several tasks, the root mean square of the tasks'. NaN for one seed."""
    if arm.n < 2:
        return math.nan
    return math.sqrt(float(np.mean([deviation(scores) ** 2 for scores in arm.scores])))


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
