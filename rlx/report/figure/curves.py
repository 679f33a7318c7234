"""Figures over training: learning curves of the score."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlx.comparison.comparison import Comparison
from rlx.report.figure.base import Axis, Band, Figure, Line, Mark, padded
from rlx.report.figure.scores import MANY, MOST_LINES, legend_of
from rlx.report.text import level

MOST_POINTS = 150


def curve_figures(comparison: Comparison) -> list[Figure]:
    """Learning curves over seeds, a figure a task; single seeds on demand."""
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
            for seed, at, values in curve.runs:
                marks.append(Line(*thinned(at.tolist(), values.tolist()), place, f"{curve.variant}, seed {seed}", role="seed"))
            marks.append(Line(*thinned(xs, curve.mean.tolist()), place, curve.variant))
        heights = [float(v) for curve in shown for _, _, values in curve.runs for v in values if math.isfinite(v)]
        steps = [float(step) for curve in shown for step in curve.steps]
        rest = f" The best {len(shown)} of {len(mine)} variants." if len(mine) > len(shown) else ""
        caption = (
            f"Mean over seeds, with a pointwise {level(comparison)} band (t), of completed runs. Step 0 is before training.{rest}"
        )
        name = "curves" if len(comparison.tasks) == 1 else f"curves-{index}"
        title = "Learning curves" if len(comparison.tasks) == 1 else f"Learning curves: {task}"
        x, y = Axis("step", min(steps), max(steps)), Axis(comparison.choices.metric, *padded(min(heights), max(heights)))
        legend = legend_of(comparison, [order[curve.variant] for curve in shown])
        about = "learning curves, mean and interval over seeds"
        figures.append(Figure(name, title, caption, about, x, y, tuple(marks), legend))
    return figures


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Every k-th point and the last: more cannot be seen."""
    stride = max(1, math.ceil(len(xs) / most))
    keep = sorted({*range(0, len(xs), stride), len(xs) - 1})
    return [float(xs[i]) for i in keep], [float(ys[i]) for i in keep]
