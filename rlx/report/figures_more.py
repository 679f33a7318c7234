"""Figures about choices: swept hyperparameters, score against what it cost, and what a search may expect."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from rlx.compare.comparison import Comparison
from rlx.compare.extra import Setting
from rlx.compare.interval import Interval
from rlx.compare.summary import Variant
from rlx.compare.words import number
from rlx.report.svg import NARROW, WIDE, Figure, Plot, room, shorten, spread_labels, text_width, twice
from rlx.report.tables import interval
from rlx.report.text import figure as figure_text


def settings(comparison: Comparison) -> list[Figure]:
    """The score at each value of a swept key, a figure a key and algorithm."""
    found: list[Figure] = []
    for algorithm, key in dict.fromkeys((setting.algorithm, setting.key) for setting in comparison.settings):
        points = [s for s in comparison.settings if (s.algorithm, s.key) == (algorithm, key)]
        if not 2 <= len(points) <= 60:
            continue
        wide, narrow = (_draw_setting(comparison, points, width) for width in (WIDE, NARROW))
        seeds = sorted({point.n for point in points})
        over = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
        caption = f"Mean over {over} with interval; what else was swept is averaged out. {points[0].key}"
        found.append(Figure(f"setting-{len(found)}", f"Effect of {points[0].name} in {algorithm}", caption, wide, narrow))
    return found


def _draw_setting(comparison: Comparison, points: Sequence[Setting], width: float) -> str:
    ends = [e for p in points for e in ((p.interval.low, p.interval.high) if p.interval else (p.mean, p.mean))]
    plot = Plot(width, 230, (-0.5, len(points) - 0.5), room(min(ends), max(ends)), left=54)
    plot.axes(points[0].name, comparison.choices.metric, grid="y")
    every = max(1, math.ceil(len(points) * 56 / (width - 70)))
    for place, point in enumerate(points):
        shown = figure_text(point.value) if isinstance(point.value, (int, float)) else str(point.value)
        if place % every == 0:
            plot.text(plot.x(place), plot.height - plot.bottom + 15, shorten(shown, 80), "tick", anchor="middle", title=shown)
        if point.interval is not None:
            top, low = plot.y(min(point.interval.high, plot.y_range[1])), plot.y(max(point.interval.low, plot.y_range[0]))
            plot.raw(f'<path class="v0 bar thin" d="M{plot.x(place):.1f} {top:.1f}V{low:.1f}"/>')
        hover = f"{point.name}={shown}: {number(point.mean)} {interval(point.interval)}, {point.n} seeds"
        plot.dot(place, point.mean, "v0 mean", size=4.5, title=hover)
    numeric = all(isinstance(p.value, (int, float)) and not isinstance(p.value, bool) for p in points)
    if numeric:
        plot.line(range(len(points)), [p.mean for p in points], "v0 curve faint")
    return plot.done(f"score at each value of {points[0].name}")


def paretos(comparison: Comparison) -> list[Figure]:
    """Score against KL, tokens and seconds; what nothing beats in both is ringed."""
    kinds: tuple[tuple[str, str, str, Callable[[Variant], float | None]], ...] = (
        ("pareto-kl", "Score against KL", "KL to the reference (nats per completion)", lambda v: v.kl),
        ("pareto-tokens", "Score against tokens", "tokens sampled and trained, a run", lambda v: v.tokens),
        ("pareto-seconds", "Score against time", "seconds a run", lambda v: v.seconds),
    )
    return [found for kind in kinds if (found := _pareto_figure(comparison, *kind)) is not None]


def _pareto_figure(comparison: Comparison, name: str, title: str, label: str, cost: Callable[[Variant], float | None]) -> Figure | None:
    points = [(place, v, c) for place, v in enumerate(comparison.variants) if (c := cost(v)) is not None]
    if len(points) < 2:
        return None
    front = {
        p for p, v, c in points if not any((w.mean >= v.mean and d <= c) and (w.mean > v.mean or d < c) for _, w, d in points)
    }
    costs, scores = [c for _, _, c in points], [v.mean for _, v, _ in points]

    def draw(width: float) -> str:
        low, high = room(min(costs), max(costs))
        plot = Plot(width, 280, (max(low, 0.0) if min(costs) >= 0 else low, high), room(min(scores), max(scores)), left=54)
        plot.axes(label, comparison.choices.metric)
        heights = spread_labels([plot.y(variant.mean) + 4 for _, variant, _ in points])
        for (place, variant, c), height in zip(points, heights, strict=True):
            if place in front:
                plot.dot(c, variant.mean, "ring", size=9)
            hover = f"{variant.label}: {number(variant.mean)} at {figure_text(c)}"
            plot.dot(c, variant.mean, f"v{place} mean", size=5, title=hover, shape=place // 8)
            if len(points) <= 10 and width > 500:
                right = plot.x(c) > width - 160
                x = plot.x(c) + (-12 if right else 12)
                plot.text(x, height, shorten(variant.label, 150), "name", anchor="end" if right else "start")
        return plot.done(title)

    caption = (
        "Up and left is better. Ringed: no other variant has both a higher mean and a lower cost. Means; the "
        "verdicts say which are sure."
    )
    return Figure(name, title, caption, draw(WIDE), draw(NARROW), legend=tuple(place for place, _, _ in points)[:24])


def searches(comparison: Comparison) -> list[Figure]:
    """Expected best score of each searched algorithm against trials, and against tokens."""
    found = comparison.searches
    if not found:
        return []

    def drawing(per_tokens: bool) -> Callable[[float], str]:
        def draw(width: float) -> str:
            used = [s for s in found if not per_tokens or s.tokens]
            ends = [float(value) for s in used for value in (*s.expected, *s.low, *s.high)]
            most = max(s.trials * (s.tokens or 0 if per_tokens else 1) for s in used)
            plot = Plot(width, 260, (0 if per_tokens else 1, most), room(min(ends), max(ends)), left=54)
            plot.axes(
                "tokens spent" if per_tokens else "settings tried",
                f"expected best {comparison.choices.metric}",
                whole=not per_tokens,
            )
            for search in used:
                v = next(i for i, variant in enumerate(comparison.variants) if variant.algorithm == search.algorithm)
                xs = [(k + 1) * (search.tokens or 0 if per_tokens else 1) for k in range(search.trials)]
                plot.band(xs, search.low, search.high, f"v{v} band")
                plot.line(xs, [float(y) for y in search.expected], f"v{v} curve", title=search.algorithm)
                plot.text(plot.x(xs[-1]) - 4, plot.y(float(search.expected[-1])) - 6, search.algorithm, "name", anchor="end")
            return plot.done("expected best score of a search")

        return draw

    caption = (
        "Mean of the best of k settings drawn without replacement (unbiased), with a bootstrap band: compare algorithms at equal "
        "effort, for more tries alone raise the best. The band is too narrow towards the right end."
    )
    figures = [Figure("search-trials", "What a search may expect", caption, drawing(False)(WIDE), drawing(False)(NARROW))]
    if any(search.tokens for search in found):
        draw = drawing(True)
        figures.append(Figure("search-tokens", "What a search may expect for its cost", caption, draw(WIDE), draw(NARROW)))
    return figures


def aggregates(comparison: Comparison) -> list[Figure]:
    """Over several tasks: interquartile mean and optimality gap of each variant, with bootstrap intervals over runs."""
    if len(comparison.tasks) < 2:
        return []
    level, target = f"{100 * comparison.choices.level:g} %", comparison.choices.target
    kinds = (
        ("iqm", "Interquartile mean over runs and tasks", "higher is better", lambda v: v.iqm, lambda v: v.iqm_interval),
        (
            "gap",
            f"Optimality gap from {target:g}",
            "lower is better",
            lambda v: v.optimality_gap,
            lambda v: v.optimality_gap_interval,
        ),
    )
    figures = []
    for name, title, better, centre, around in kinds:
        rows = [(place, v.label, centre(v), around(v)) for place, v in enumerate(comparison.variants) if centre(v) is not None]
        drawings = twice(partial(_rows, rows, title))
        caption = f"{level} interval by stratified bootstrap: runs are resampled within each task. {better.capitalize()}."
        figures.append(Figure(f"aggregate-{name}", title, caption, *drawings))
    return figures


def _rows(rows: Sequence[tuple[int, str, float, Interval | None]], title: str, width: float) -> str:
    """One dot and one bar a variant."""
    ends = [end for _, _, value, bar in rows for end in ((bar.low, bar.high) if bar else (value, value))]
    narrow = width < 500
    row, left = (42, 12) if narrow else (28, min(260, max(text_width(label) for _, label, _, _ in rows) + 20))
    plot = Plot(width, row * len(rows) + 50, room(min(ends), max(ends)), (0, 1), left=left, top=6)
    plot.axes(title, grid="x")
    for place, label, value, bar in rows:
        middle = 6 + row * (place + (0.7 if narrow else 0.5))
        if narrow:
            plot.text(left, middle - 12, shorten(label, width - 24), "name", title=label)
        else:
            plot.text(left - 10, middle + 4, shorten(label, left - 14), "name", anchor="end", title=label)
        if bar is not None:
            plot.raw(f'<path class="v{place} bar" d="M{plot.x(bar.low):.1f} {middle:.1f}H{plot.x(bar.high):.1f}"/>')
        plot.circle(plot.x(value), middle, f"v{place} mean", 5, f"{label}: {number(value)} {interval(bar)}")
    return plot.done(title)
