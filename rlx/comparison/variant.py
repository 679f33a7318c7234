"""One variant: its scores over seeds, aggregates with intervals, gain over no training, collapses, and costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlx.comparison.choices import Choices
from rlx.comparison.pair import Arm
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.bootstrap import bootstrap_interval, row_iqm, row_optimality_gap
from rlx.comparison.statistics.crossed import crossed
from rlx.comparison.statistics.difference import paired
from rlx.comparison.statistics.effect import share_interval
from rlx.comparison.statistics.interval import Array, Interval, deviation, iqm, iqm_interval, mean, mean_interval, optimality_gap

UNTRAINED = "untrained (step 0)"


@dataclass(frozen=True)
class Variant(Serializable):
    """A row of the table. Means of costs are over completed runs; null if not recorded.

    scores: one per seed and task, in the order of seeds; a seed's runs of several configs are averaged. failed: runs that failed
    or did not finish. interval: of the mean over seeds, on these prompts; null for one seed. evaluation_error: standard error
    over prompts within a run; runs that answer the same prompts share most of it, so it is not part of the spread over seeds.
    optimality_gap: only with several tasks. gain: mean difference to the same runs before training (step 0), with its interval
    over seeds, and over prompts if `gain_over_prompts`. collapsed: runs that failed, or ended below `collapse` (null: worse
    than before training); collapse_interval: exact interval of the probability of that.
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
    gain: float | None = None
    gain_interval: Interval | None = None
    gain_over_prompts: bool = False
    collapsed: int | None = None
    collapse_interval: Interval | None = None
    rank: int = 0
    first_probability: float | None = None


def arm_of(label: str, counted: Sequence[RunScore], tasks: Sequence[str]) -> Arm:
    """A variant's scores and answers per task, one row per seed; a seed's runs of several configs are averaged, as they are not
    further seeds."""
    scores, seeds, tables, prints = [], [], [], []
    known: list[int] = []
    for task in tasks:
        by_seed: dict[int, list[RunScore]] = {}
        for run in counted:
            if run.variant == label and run.task == task:
                by_seed.setdefault(run.seed, []).append(run)
        seeds.append(sorted(by_seed))
        rows = [by_seed[seed] for seed in seeds[-1]]
        scores.append(np.array([np.mean([run.score for run in runs]) for runs in rows]))
        tables.append(_table(rows, scores[-1], start=False))
        prints.append([runs[0].fingerprint if len(runs) == 1 and not runs[0].imputed else None for runs in rows])
        known += [runs[0].fingerprint for runs in rows if len(runs) == 1 and len(runs[0].values)]
    mine = [run for run in counted if run.variant == label and not run.imputed]
    total = sum(len(s) for s in scores)
    spent = [run.seconds for run in mine if run.seconds is not None]
    a_prompt = [run.evaluation_seconds / run.num_prompts for run in mine if run.evaluation_seconds and run.num_prompts]
    return Arm(
        label,
        scores,
        seeds,
        same_run=len(tasks) == 1 and len(known) == total > 1 and len(set(known)) == 1,
        tables=None if any(table is None for table in tables) else [table for table in tables if table is not None],
        fingerprints=prints,
        prompts=[frozenset(run.prompts for run in mine if run.task == task and run.prompts is not None) for task in tasks],
        run_seconds=float(np.mean(spent)) if spent else None,
        prompt_seconds=float(np.mean(a_prompt)) if a_prompt else None,
    )


def _table(rows: Sequence[Sequence[RunScore]], scores: Array, *, start: bool) -> Array | None:
    """Scores per answer [S, P]; None if a run did not store them, or has a different number of prompts.

    A run with an imputed score gets the answers of the others of its variant, shifted down, which adds only to the spread over
    seeds. start: use the answers before training.
    """
    found: list[Array | None] = []
    for runs in rows:
        answers = [run.start_answers if start else run.answers for run in runs]
        given = [one for one in answers if one is not None]
        if any(run.imputed for run in runs):
            found.append(None)
        elif len(given) < len(answers) or len({len(one) for one in given}) != 1:
            return None
        else:
            found.append(np.mean(given, axis=0))
    whole = [row for row in found if row is not None]
    if not whole or len({len(row) for row in whole}) != 1 or len(whole[0]) < 2:  # one prompt shows no spread over prompts
        return None
    typical = np.mean(whole, axis=0)
    level = float(typical.mean())
    return np.array([typical + (score - level) if row is None else row for row, score in zip(found, scores, strict=True)])


def untrained_arm(arm: Arm, counted: Sequence[RunScore], tasks: Sequence[str]) -> Arm | None:
    """The same runs before training, in the order of the arm's seeds; None if one was not evaluated at step 0."""
    scores, tables = [], []
    for task, seeds in zip(tasks, arm.seeds, strict=True):
        rows = [[run for run in counted if run.variant == arm.label and run.task == task and run.seed == seed] for seed in seeds]
        if any(run.start is None for runs in rows for run in runs):
            return None
        scores.append(np.array([np.mean([run.start for run in runs if run.start is not None]) for runs in rows]))
        tables.append(_table(rows, scores[-1], start=True))
    whole = [table for table in tables if table is not None]
    return Arm(UNTRAINED, scores, arm.seeds, tables=whole if len(whole) == len(tables) else None)


def add_gain(variant: Variant, arm: Arm, before: Arm | None, choices: Choices) -> Variant:
    """The variant with its gain over the untrained policy: trained minus untrained, run by run."""
    if before is None or arm.n < 2:
        return variant
    level, over = choices.level, choices.prompts == "random" and arm.tables is not None and before.tables is not None
    over = over and all(
        x.shape == y.shape and x.shape[1] >= 2 for x, y in zip(arm.tables or (), before.tables or (), strict=True)
    )
    result = paired(arm.scores, before.scores, level=level)
    if over:
        result = crossed(arm.tables or (), before.tables or (), level=level, pairs=True)
    interval = Interval(result.low, result.high, level, result.name)
    return replace(variant, gain=result.difference, gain_interval=interval, gain_over_prompts=over)


def add_collapses(variant: Variant, runs: Sequence[RunScore], choices: Choices) -> Variant:
    """The variant with the number of collapsed runs, and the exact interval of the probability of collapse."""
    sign = -1 if choices.is_lower_better else 1
    count = known = 0
    for run in runs:
        limit = run.start if choices.collapse is None else choices.collapse
        if run.imputed or (run.score is not None and limit is not None):
            known += 1
            count += run.imputed or (run.score is not None and limit is not None and sign * (run.score - limit) < 0)
    if known < max(len(runs), 1):
        return variant
    return replace(variant, collapsed=count, collapse_interval=share_interval(count, known, level=choices.level))


def summarise(
    arm: Arm,
    runs: Sequence[RunScore],
    counted: Sequence[RunScore],
    tasks: Sequence[str],
    choices: Choices,
    rng: np.random.Generator,
) -> Variant:
    """The row of one variant. runs: all of its runs; counted: those with a score, including imputed ones."""
    sign, level, target = -1 if choices.is_lower_better else 1, choices.level, choices.target
    everything = np.concatenate(list(arm.scores))
    several, enough = len(arm.scores) > 1, arm.n >= 2
    done = [run for run in runs if run.state == "completed"]
    areas = np.array([run.area for run in done if math.isfinite(run.area)])
    gap = row_optimality_gap(sign * target)
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
        iqm_interval=_iqm_interval(arm, level=level, rng=rng, num_resamples=choices.num_resamples) if enough else None,
        optimality_gap=optimality_gap(sign * everything, target=sign * target) if several else None,
        optimality_gap_interval=bootstrap_interval(
            [sign * scores for scores in arm.scores], gap, rng, level=level, num_resamples=choices.num_resamples
        )
        if several and enough
        else None,
        best=float((sign * everything).max()) * sign,
        worst=float((sign * everything).min()) * sign,
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
    """Standard deviation over seeds; with several tasks, the root mean square of the tasks'. NaN for one seed."""
    if arm.n < 2:
        return math.nan
    return math.sqrt(float(np.mean([deviation(scores) ** 2 for scores in arm.scores])))


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
