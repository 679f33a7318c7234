"""The figures of the page, each drawn twice: for a wide and for a narrow screen. Draws, computes nothing but positions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rlx.compare.comparison import Comparison
from rlx.compare.words import number
from rlx.report.figures_more import aggregates, paretos, searches, settings
from rlx.report.svg import Figure, Plot, escape, room, shorten, text_width, twice
from rlx.report.tables import interval, percent

MOST_CURVES = 12  # more lines in one figure cannot be told apart
MOST_IN_MATRIX = 16
MANY = 6  # more bands than this hide each other: they become fainter


def all_figures(comparison: Comparison) -> list[Figure]:
    """Every figure that the data allow, the most telling first."""
    makers: tuple[Callable[[Comparison], list[Figure]], ...] = (
        intervals,
        aggregates,
        differences,
        improvement,
        curves,
        profiles,
        settings,
        paretos,
        searches,
    )
    return [figure for make in makers for figure in make(comparison)]


def intervals(comparison: Comparison) -> list[Figure]:
    """Each variant's mean with its interval, and every seed."""
    variants = comparison.variants
    every = [value for v in variants for value in v.scores] + [
        e for v in variants if v.interval for e in (v.interval.low, v.interval.high)
    ]
    span = room(min(every), max(every))
    level = f"{100 * comparison.choices.level:g} %"

    def draw(width: float) -> str:
        narrow = width < 500
        row, left = (46, 12) if narrow else (30, min(260, max(text_width(v.label) for v in variants) + 20))
        plot = Plot(width, row * len(variants) + 50, span, (0, 1), left=left, top=6)
        plot.axes(comparison.choices.metric, grid="x")
        for place, variant in enumerate(variants):
            middle = 6 + row * (place + (0.68 if narrow else 0.5))
            if narrow:
                plot.text(left, middle - 14, shorten(variant.label, width - 24), "name", title=variant.label)
            else:
                plot.text(left - 10, middle + 4, shorten(variant.label, left - 14), "name", anchor="end", title=variant.label)
            seeds = [seed for arm in comparison.arms if arm.label == variant.label for task in arm.seeds for seed in task]
            for value, seed in zip(variant.scores, seeds, strict=True):
                hover = f"{variant.label}, seed {seed}: {number(value)}"
                plot.circle(plot.x(value), middle + 6, f"v{place} seed-dot", 3, hover)
            if variant.interval is not None:
                low, high = plot.x(max(variant.interval.low, span[0])), plot.x(min(variant.interval.high, span[1]))
                plot.raw(f'<path class="v{place} bar" d="M{low:.1f} {middle - 3:.1f}H{high:.1f}"/>')
            hover = f"{variant.label}: mean {number(variant.mean)} {interval(variant.interval)}, {variant.n} seeds"
            plot.circle(plot.x(variant.mean), middle - 3, f"v{place} mean", 5, hover)
        return plot.done("mean score of each variant with its interval and its seeds")

    caption = (
        f"Large dot: mean. Bar: {level} interval of the mean. Small dots: single seeds. Overlapping bars are no "
        f"test; the verdicts are."
    )
    return [Figure("intervals", "Scores", caption, *twice(draw))]


def differences(comparison: Comparison) -> list[Figure]:
    """The difference of each pair with its interval; the margin as a band around zero."""
    pairs = [pair for pair in comparison.pairs if math.isfinite(pair.low)][:40]
    if not pairs:
        return []
    margin = comparison.choices.margin or 0.0
    span = room(min(0.0, -margin, *(pair.low for pair in pairs)), max(0.0, margin, *(pair.high for pair in pairs)))

    def draw(width: float) -> str:
        narrow = width < 500
        names = [f"{pair.a} − {pair.b}" for pair in pairs]
        row, left = (42, 12) if narrow else (26, min(420, max(map(text_width, names)) + 20))
        plot = Plot(width, row * len(pairs) + 50, span, (0, 1), left=left, top=6)
        if margin:
            low, high = plot.x(-margin), plot.x(margin)
            plot.raw(f'<rect class="margin" x="{low:.1f}" y="6" width="{high - low:.1f}" height="{row * len(pairs) + 4}"/>')
        plot.axes("difference of means", grid="x")
        plot.raw(f'<path class="zero" d="M{plot.x(0):.1f} 6V{plot.height - plot.bottom:.1f}"/>')
        for place, (pair, name) in enumerate(zip(pairs, names, strict=True)):
            middle = 6 + row * (place + (0.7 if narrow else 0.5))
            if narrow:
                plot.text(left, middle - 12, shorten(name, width - 24), "name", title=name)
            else:
                plot.text(left - 10, middle + 4, shorten(name, left - 14), "name", anchor="end", title=name)
            kind = f"verdict-{pair.verdict}"
            plot.raw(f'<path class="bar {kind}" d="M{plot.x(pair.low):.1f} {middle:.1f}H{plot.x(pair.high):.1f}"/>')
            x = plot.x(pair.difference)
            plot.circle(x, middle, f"mean {kind}", 5, pair.words)
        return plot.done("difference of each pair with its interval")

    level = f"{100 * comparison.choices.level:g} %"
    shaded = " Shaded: the margin that does not matter." if margin else ""
    more = f" The first {len(pairs)} of {len(comparison.pairs)} pairs." if len(comparison.pairs) > len(pairs) else ""
    caption = f"{level} interval of each difference, for itself; the verdict also allows for the number of pairs.{shaded}{more}"
    return [Figure("differences", "Differences", caption, *twice(draw))]


def improvement(comparison: Comparison) -> list[Figure]:
    """A matrix: the chance that a run of the row beats a run of the column."""
    labels = [variant.label for variant in comparison.variants][:MOST_IN_MATRIX]
    if len(labels) < 2:
        return []
    chance: dict[tuple[str, str], tuple[float, str]] = {}
    for pair in comparison.pairs:
        there, back = pair.probability_of_improvement, 1 - pair.probability_of_improvement
        chance[pair.a, pair.b], chance[pair.b, pair.a] = (there, pair.words), (back, pair.words)

    def draw(width: float) -> str:
        left = min(width * 0.34, max(map(text_width, labels)) + 36)
        cell = min(92.0, (width - left - 8) / len(labels))
        is_named = max(map(text_width, labels)) <= cell - 4  # else columns are numbered as the rows are
        step = min(44.0, cell * 0.72)
        height = 30 + step * len(labels) + 8
        plot = Plot(width, height, (0, 1), (0, 1))
        for column, label in enumerate(labels):
            x = left + cell * (column + 0.5)
            plot.text(x, 20, label if is_named else str(column + 1), "tick", anchor="middle", title=label)
        for row, label in enumerate(labels):
            y = 30 + step * row
            name = label if is_named else f"{row + 1} {label}"
            plot.text(left - 8, y + step / 2 + 4, shorten(name, left - 10), "name", anchor="end", title=label)
            for column, other in enumerate(labels):
                x = left + cell * column
                value, words = chance.get((label, other), (math.nan, ""))
                if label == other or math.isnan(value):
                    continue
                side, strength = ("win" if value >= 0.5 else "lose"), abs(value - 0.5) * 2
                box = f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2:.1f}" height="{step - 2:.1f}" rx="3"'
                hover = f"{label} beats {other}: {percent(value)}. {words}"
                fill = f'class="{side}" fill-opacity="{0.08 + 0.72 * strength:.2f}"'
                plot.raw(f"<rect {fill} {box}><title>{escape(hover)}</title></rect>")
                shown = f"{100 * value:.0f}" + ("%" if cell > 44 else "")
                kind = "cell strong" if strength > 0.6 else "cell"
                plot.text(x + cell / 2, y + step / 2 + 4, shown, kind, anchor="middle")
        return plot.done("probability of improvement of the row over the column")

    caption = (
        "Chance that a run of the row's variant scores higher than one of the column's, ties counting half. 50\u00a0% is none."
    )
    return [Figure("improvement", "Probability of improvement", caption, *twice(draw))]


def curves(comparison: Comparison) -> list[Figure]:
    """Learning curves over seeds, a figure a task; single seeds on demand."""
    order = {variant.label: place for place, variant in enumerate(comparison.variants)}
    figures = []
    for index, task in enumerate(comparison.tasks):
        mine = sorted((c for c in comparison.curves if c.task == task and len(c.steps) > 1), key=lambda c: order[c.variant])
        shown = mine[:MOST_CURVES]
        if not shown:
            continue
        heights = [float(v) for curve in shown for _, _, values in curve.runs for v in values if math.isfinite(v)]
        steps = [float(s) for curve in shown for s in curve.steps]

        def draw(
            width: float, shown: Sequence = shown, heights: Sequence[float] = heights, steps: Sequence[float] = steps
        ) -> str:
            plot = Plot(width, 320 if width > 500 else 260, (min(steps), max(steps)), room(min(heights), max(heights)), left=54)
            plot.axes("step", comparison.choices.metric)
            shade = "band" if len(shown) <= MANY else "band many"
            for curve in shown:
                v = order[curve.variant]
                plot.band(curve.steps, curve.low, curve.high, f"v{v} {shade}")
                for seed, xs, ys in curve.runs:
                    xs, ys = _thinned(xs, ys)
                    plot.line(xs, ys, f"v{v} seed", title=f"{curve.variant}, seed {seed}")
                xs, ys = _thinned(curve.steps, curve.mean)
                plot.line(xs, ys, f"v{v} curve d{v // 8 % 3}", title=curve.variant)
            return plot.done("learning curves, mean and interval over seeds")

        rest = f" The best {len(shown)} of {len(mine)} variants." if len(mine) > len(shown) else ""
        caption = (
            f"Mean over seeds, with a pointwise {100 * comparison.choices.level:g} % band (t), of completed runs. Step "
            f"0 is before training.{rest}"
        )
        name = "curves" if len(comparison.tasks) == 1 else f"curves-{index}"
        title = "Learning curves" if len(comparison.tasks) == 1 else f"Learning curves: {task}"
        figures.append(Figure(name, title, caption, *twice(draw), legend=tuple(order[c.variant] for c in shown), has_seeds=True))
    return figures


def _thinned(xs: Sequence[float], ys: Sequence[float], most: int = 150) -> tuple[list[float], list[float]]:
    """Every k-th point and the last: more cannot be seen."""
    stride = max(1, math.ceil(len(xs) / most))
    keep = sorted({*range(0, len(xs), stride), len(xs) - 1})
    return [float(xs[i]) for i in keep], [float(ys[i]) for i in keep]


def profiles(comparison: Comparison) -> list[Figure]:
    """Performance profiles: the share of runs above each score."""
    shown = comparison.profiles[:MOST_CURVES]
    if sum(len(scores) for scores in comparison.arms[0].scores) < 2:
        return []
    grid = shown[0].thresholds

    def draw(width: float) -> str:
        plot = Plot(width, 280 if width > 500 else 240, (float(grid[0]), float(grid[-1])), (0, 1), left=54)
        plot.axes(f"{comparison.choices.metric} above", "share of runs")
        for v, profile in enumerate(shown):
            plot.band(grid, profile.low, profile.high, f"v{v} {'band' if len(shown) <= MANY else 'band many'}")
        for v, profile in enumerate(shown):
            plot.line(
                [float(x) for x in grid], [float(y) for y in profile.share], f"v{v} curve d{v // 8 % 3}", title=profile.variant
            )
        return plot.done("performance profile: share of runs above each score")

    tasks = ", each task counting the same" if len(comparison.tasks) > 1 else ""
    caption = (
        f"Share of runs that score above a threshold{tasks}, with a pointwise bootstrap band. A curve that lies "
        f"higher everywhere is better."
    )
    return [Figure("profile", "Performance profile", caption, *twice(draw), legend=tuple(range(len(shown))))]
