"""Figures over training: the score, its interquartile mean over costs, and every other logged metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from rlx.comparison.comparison import Comparison
from rlx.comparison.descriptive import Curve
from rlx.comparison.training_curves import (
    OVER,
    MetricCurve,
    RunLog,
    has_positions,
    iqm_curves,
    metric_curves,
    metrics_to_draw,
    read_logs,
)
from rlx.report.figure.base import Band, Figure, FigureAxis, Line, Mark, cut_note, framed
from rlx.report.figure.scores import MANY, MOST_LINES, legend_of
from rlx.report.text import level

MOST_POINTS = 150
MOST_SEEDS = 20  # single runs shown per variant
PATH_BYTES = 1_300_000  # limit for the lines of all metrics on a page
POINT_BYTES = 6  # bytes per point in a path
MOST_METRIC_FIGURES = 300  # metrics times x axes times tasks
FEWEST_POINTS, METRIC_POINTS, IQM_POINTS = 12, 60, 25
X_LABELS = {"step": "step", "tokens": "tokens sampled and trained", "seconds": "seconds of training, without evaluations"}
PRINTED_METRICS = ("loss", "kl", "entropy", "reward_mean", "reward", "completion_length", "clip_fraction_high", "grad_norm")


def curve_figures(comparison: Comparison) -> list[Figure]:
    """Learning curves over seeds, one figure per task; single seeds on demand."""
    order = {variant.label: place for place, variant in enumerate(comparison.variants)}
    figures = []
    for index, task in enumerate(comparison.tasks):
        mine = sorted((c for c in comparison.curves if c.task == task and len(c.steps) > 1), key=lambda c: order[c.variant])
        shown = mine[:MOST_LINES]
        if not shown:
            continue
        marks: list[Mark] = []
        for curve in shown:
            place = order[curve.variant]
            xs = curve.steps.tolist()
            marks.append(Band(xs, curve.low.tolist(), curve.high.tolist(), place, is_faint=len(shown) > MANY))
            for seed, at, values in curve.runs[:MOST_SEEDS]:
                marks.append(Line(*thinned(at.tolist(), values.tolist()), place, f"{curve.variant}, seed {seed}", role="seed"))
            marks.append(Line(*thinned(xs, curve.mean.tolist()), place, curve.variant))
        heights, bands = _heights(shown)
        steps = [float(step) for curve in shown for step in curve.steps]
        rest = f" The best {len(shown)} of {len(mine)} variants." if len(mine) > len(shown) else ""
        if max(len(curve.runs) for curve in shown) > MOST_SEEDS:
            rest += f" Lines of single runs: {MOST_SEEDS} of each variant."
        caption = (
            f"Mean over seeds, with a pointwise {level(comparison)} band (t), of completed runs. Step 0 is before training.{rest}"
        )
        y = FigureAxis(comparison.choices.metric, *framed(heights, bands))
        caption += cut_note(bands, y)
        name = "curves" if len(comparison.tasks) == 1 else f"curves-{index}"
        title = "Learning curves" if len(comparison.tasks) == 1 else f"Learning curves: {task}"
        x = FigureAxis("step", min(steps), max(steps))
        legend = legend_of(comparison, [order[curve.variant] for curve in shown])
        about = "learning curves, mean and interval over seeds"
        figures.append(Figure(name, title, caption, about, x, y, tuple(marks), legend))
    return figures


def _heights(curves: Sequence[Curve]) -> tuple[list[float], list[float]]:
    """The values of the runs of some learning curves, and the ends of their bands."""
    lines = [float(value) for curve in curves for _, _, values in curve.runs for value in values]
    return lines, [float(value) for curve in curves for end in (curve.low, curve.high) for value in end]


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Every k-th point and the last, as more would not be visible."""
    stride = max(1, math.ceil(len(xs) / most))
    keep = sorted({*range(0, len(xs), stride), len(xs) - 1})
    return [float(xs[i]) for i in keep], [float(ys[i]) for i in keep]


def shown_logs(comparison: Comparison) -> list[RunLog]:
    """The logs of the best variants' runs, with a limited number per variant and task."""
    labels = [variant.label for variant in comparison.variants[:MOST_LINES]]
    kept = []
    for label in labels:
        for task in comparison.tasks:
            mine = [run for run in comparison.runs if (run.variant, run.task) == (label, task)]
            kept += sorted(mine, key=lambda run: (run.state != "completed", run.seed))[:MOST_SEEDS]
    return read_logs(kept)


def efficiency_figures(comparison: Comparison, logs: Sequence[RunLog]) -> list[Figure]:
    """The interquartile mean of the score over steps, tokens and seconds, each with its interval."""
    figures = []
    for over in OVER:
        if not has_positions(logs, over):
            continue
        options = {"level": comparison.choices.level, "num_resamples": min(500, comparison.choices.num_resamples)}
        rng = np.random.default_rng(0)
        metric = comparison.choices.metric
        curves = iqm_curves(logs, metric, over, tasks=comparison.tasks, points=IQM_POINTS, rng=rng, **options)  # type: ignore[arg-type]
        curves = [curve for curve in curves if np.isfinite(curve.mean).sum() > 1]
        if not curves:
            continue
        on_tasks = " and tasks" if len(comparison.tasks) > 1 else ""
        caption = (
            f"Interquartile mean of {metric} over runs{on_tasks} against {X_LABELS[over]}, "
            f"with a pointwise {level(comparison)} interval. A variant's line ends where the first of its runs did."
            f"{_left_out(comparison)}"
        )
        labels = {curve.variant for curve in curves}
        beside = _heights([curve for curve in comparison.curves if curve.variant in labels])
        name, title = f"efficiency-{over}", "Sample efficiency"
        figure = _metric_figure(comparison, curves, name, title, caption, f"IQM of {metric}", beside=beside)
        figures.append(replace(figure, family="efficiency", choice=(over,), is_printed=over == "tokens"))
    return figures


def metric_figures(comparison: Comparison, logs: Sequence[RunLog]) -> list[Figure]:
    """Each informative logged metric, over steps, tokens and seconds, on each task."""
    metrics = metrics_to_draw(logs) if logs else []
    overs = [over for over in OVER if has_positions(logs, over)]
    tasks = comparison.tasks[: max(1, MOST_METRIC_FIGURES // max(1, len(metrics) * len(overs)))]
    logs = [log for log in logs if log.run.task in tasks]
    lines = len(metrics) * len(overs) * (len(logs) + 3 * len({log.run.variant for log in logs}))
    points = max(FEWEST_POINTS, min(METRIC_POINTS, PATH_BYTES // POINT_BYTES // max(1, lines)))
    is_several = len(comparison.tasks) > 1
    figures = []
    for (place, task), metric, over in product(enumerate(tasks), metrics, overs):
        mine = [log for log in logs if log.run.task == task]
        curves = metric_curves(mine, metric, over, points=points, level=comparison.choices.level)
        if not any(np.isfinite(curve.mean).sum() > 1 for curve in curves):
            continue
        on = f" On {task}, one of {len(tasks)} tasks shown of {len(comparison.tasks)}." if is_several else ""
        caption = (
            f"{metric} against {X_LABELS[over]}: mean over seeds with a pointwise {level(comparison)} band (t), at up to "
            f"{points} points, between which values are averaged. A mean ends where the first of its runs did.{on}"
            f"{_unlike(comparison, metric)}{_left_out(comparison)}"
        )
        name = f"metric-{metric.replace('/', '-')}-{over}{f'-{place}' if is_several else ''}"
        figure = _metric_figure(comparison, curves, name, "Training curves", caption, metric)
        is_printed = over == "step" and metric.partition("/")[2] in PRINTED_METRICS
        choice = (metric, over, task) if is_several else (metric, over)
        figures.append(replace(figure, family="metrics", choice=choice, is_printed=is_printed))
    return figures


def _unlike(comparison: Comparison, metric: str) -> str:
    """A note that a loss is a different quantity for each algorithm."""
    if not metric.endswith("loss") or len({variant.algorithm for variant in comparison.variants}) < 2:
        return ""
    return " Losses of unlike algorithms are other quantities: the lower one is no better policy."


def _metric_figure(
    comparison: Comparison,
    curves: Sequence[MetricCurve],
    name: str,
    title: str,
    caption: str,
    label: str,
    *,
    beside: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> Figure:
    """Lines, bands and single runs of one metric. beside: values and ends of bands of a figure with the same scale."""
    order = {variant.label: place for place, variant in enumerate(comparison.variants)}
    marks: list[Mark] = []
    for curve in sorted(curves, key=lambda curve: order[curve.variant]):
        place, xs = order[curve.variant], curve.grid.tolist()
        marks.append(Band(xs, curve.low.tolist(), curve.high.tolist(), place, is_faint=len(curves) > MANY))
        for seed, values in curve.runs:
            marks.append(Line(xs, values.tolist(), place, f"{curve.variant}, seed {seed}", role="seed"))
        marks.append(Line(xs, curve.mean.tolist(), place, curve.variant))
    grid = curves[0].grid
    lines = np.concatenate([part for curve in curves for part in (curve.mean, *(values for _, values in curve.runs))]).tolist()
    bands = np.concatenate([end for curve in curves for end in (curve.low, curve.high)]).tolist()
    y = FigureAxis(label, *framed([*lines, *beside[0]], [*bands, *beside[1]]))
    caption += cut_note(bands, y)
    x = FigureAxis(X_LABELS[curves[0].over], float(grid[0]), float(grid[-1]))
    legend = legend_of(comparison, sorted(order[curve.variant] for curve in curves))
    return Figure(name, title, caption, f"{label} over {curves[0].over}", x, y, tuple(marks), legend)


def _left_out(comparison: Comparison) -> str:
    """A sentence on what the figure leaves out."""
    parts = []
    if len(comparison.variants) > MOST_LINES:
        parts.append(f"the best {MOST_LINES} of {len(comparison.variants)} variants")
    if any(variant.runs > MOST_SEEDS * len(comparison.tasks) for variant in comparison.variants[:MOST_LINES]):
        parts.append(f"{MOST_SEEDS} runs of each variant")
    return f" Shown: {', '.join(parts)}." if parts else ""
