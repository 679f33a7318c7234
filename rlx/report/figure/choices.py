"""Figures about choices: swept hyperparameters, score against what it cost, and what a search may expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlx.comparison.comparison import Comparison
from rlx.comparison.descriptive import SettingScore
from rlx.comparison.wording import score_text
from rlx.report.figure.base import Band, Bar, Dot, Figure, FigureAxis, Line, Mark, with_room
from rlx.report.figure.scores import legend_of
from rlx.report.text import interval, level, percent, significant

COSTS = (
    ("kl", "Score against KL", "KL to the reference (nats per completion)"),
    ("tokens", "Score against tokens", "tokens sampled and trained, a run"),
    ("seconds", "Score against time", "seconds a run"),
)
MOST_VALUES = 60
MOST_IN_LEGEND = 24


def importance_figures(comparison: Comparison) -> list[Figure]:
    """What each swept key explains of the scores, a figure an algorithm; one swept key alone has its effect to show."""
    figures: list[Figure] = []
    found = comparison.importances
    for algorithm in dict.fromkeys(item.algorithm for item in found):
        rows = [item for item in found if item.algorithm == algorithm]
        marks: list[Mark] = []
        for place, item in enumerate(rows):
            over = "values" if item.levels <= 8 else "groups of values"
            moved = f"means over its {item.levels} {over} differ by {score_text(item.sensitivity)}"
            hover = f"{item.key} explains {percent(item.share)}; {moved}"
            marks += [Bar(0.0, 100 * item.share, place, 0), Dot(100 * item.share, place, 0, hover)]
        names = tuple(f"{item.name} (moves the mean by {score_text(item.sensitivity)})" for item in rows)
        caption = (
            f"Share of the variance of the scores of {rows[0].runs} runs that each swept key explains by itself (omega squared); "
            f"what is left is owed to interactions and seeds. In brackets: the highest minus the lowest mean over its values, or "
            f"over quarters of its range where it took many."
        )
        title = f"What the swept keys of {algorithm} explain"
        x, name = FigureAxis("% of the variance of scores", 0.0, 100.0), f"importance-{len(figures)}"
        figures.append(Figure(name, title, caption, title, x, FigureAxis(names=names), tuple(marks)))
    return figures


def setting_figures(comparison: Comparison) -> list[Figure]:
    """The score at each value of a swept key, a figure a key and algorithm."""
    figures: list[Figure] = []
    for algorithm, key in dict.fromkeys((setting.algorithm, setting.key) for setting in comparison.settings):
        points = [setting for setting in comparison.settings if (setting.algorithm, setting.key) == (algorithm, key)]
        if 2 <= len(points) <= MOST_VALUES:
            figures.append(_setting_figure(comparison, points, f"setting-{len(figures)}"))
    return figures


def _setting_figure(comparison: Comparison, points: Sequence[SettingScore], name: str) -> Figure:
    key, algorithm = points[0].name, points[0].algorithm
    marks: list[Mark] = []
    shown = [_value_text(point.value) for point in points]
    if all(isinstance(point.value, (int, float)) and not isinstance(point.value, bool) for point in points):
        marks.append(Line(range(len(points)), [point.mean for point in points], 0, role="faint"))
    for place, (point, text) in enumerate(zip(points, shown, strict=True)):
        if point.interval is not None:
            marks.append(Bar(point.interval.low, point.interval.high, place, 0, is_upright=True))
        hover = f"{key}={text}: {score_text(point.mean)} {interval(point.interval)}, {point.n} seeds"
        marks.append(Dot(place, point.mean, 0, hover))
    ends = [end for p in points for end in ((p.interval.low, p.interval.high) if p.interval else (p.mean,))]
    seeds = sorted({point.n for point in points})
    over = f"{seeds[0]} seeds" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    caption = f"Mean over {over} with interval; what else was swept is averaged out. Key: {points[0].key}."
    x, y = FigureAxis(key, names=tuple(shown)), FigureAxis(comparison.choices.metric, *with_room(min(ends), max(ends)))
    return Figure(name, f"Effect of {key} in {algorithm}", caption, f"score at each value of {key}", x, y, tuple(marks))


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else significant(value)


def cost_figures(comparison: Comparison) -> list[Figure]:
    """Score against KL, tokens and seconds; what nothing beats in both is ringed. None for a cost that all variants share."""
    figures = []
    sign = -1 if comparison.choices.is_lower_better else 1
    for key, title, label in COSTS:
        points = [(place, v, getattr(v, key)) for place, v in enumerate(comparison.variants) if getattr(v, key) is not None]
        costs, scores = [cost for _, _, cost in points], [sign * variant.mean for _, variant, _ in points]
        if (
            key == comparison.choices.metric.removeprefix("eval/")
            or len(points) < 2
            or max(costs) - min(costs) <= 0.01 * max(map(abs, costs))
        ):
            continue
        marks: list[Mark] = []
        for place, variant, cost in points:
            if not any(
                m >= sign * variant.mean and c <= cost and (m > sign * variant.mean or c < cost)
                for m, c in zip(scores, costs, strict=True)
            ):
                marks.append(Dot(cost, variant.mean, place, role="ring"))
            if variant.interval is not None:
                marks.append(Bar(variant.interval.low, variant.interval.high, cost, place, is_upright=True))
            hover = f"{variant.label}: {score_text(variant.mean)} at {significant(cost)}"
            marks.append(Dot(cost, variant.mean, place, hover, label=variant.label))
        caption = (
            f"{'Down' if sign < 0 else 'Up'} and left is better. Ringed: no other variant has both a "
            f"{'lower' if sign < 0 else 'higher'} mean and a lower cost. Bar: {level(comparison)} interval of the mean; the "
            "verdicts say which differences are sure."
        )
        low, high = with_room(min(costs), max(costs))
        x = FigureAxis(label, max(low, 0.0) if min(costs) >= 0 else low, high)
        ends = [end for _, v, _ in points for end in (v.mean, *((v.interval.low, v.interval.high) if v.interval else ()))]
        y = FigureAxis(comparison.choices.metric, *with_room(min(ends), max(ends)))
        legend = legend_of(comparison, [place for place, _, _ in points[:MOST_IN_LEGEND]])
        figures.append(Figure(f"pareto-{key}", title, caption, title, x, y, tuple(marks), legend))
    return figures


def search_figures(comparison: Comparison) -> list[Figure]:
    """Expected best score of each searched algorithm against trials, and against tokens."""
    caption = (
        "Mean of the best of k settings drawn without replacement (unbiased), with a bootstrap band: compare algorithms at equal "
        "effort, for more tries alone improve the best. The band is too narrow towards the right end."
    )
    kinds = (
        ("trials", "What a search may expect", "settings tried"),
        ("tokens", "What a search may expect for its cost", "tokens spent"),
    )
    figures = []
    for kind, title, label in kinds:
        found = [(search, search.tokens if kind == "tokens" else 1.0) for search in comparison.searches]
        used = [(search, unit) for search, unit in found if unit]
        ends = [float(value) for search, _ in used for value in (*search.expected, *search.low, *search.high)]
        if not used or max(ends) == min(ends):
            continue
        marks: list[Mark] = []
        for search, unit in used:
            colour = next(i for i, variant in enumerate(comparison.variants) if variant.algorithm == search.algorithm)
            xs = [(trial + 1) * unit for trial in range(search.trials)]
            marks.append(Band(xs, search.low.tolist(), search.high.tolist(), colour))
            marks.append(Line(xs, search.expected.tolist(), colour, search.algorithm, label=search.algorithm))
        most = max(search.trials * unit for search, unit in used)
        x = FigureAxis(label, 0.0 if kind == "tokens" else 1.0, most, is_whole=kind == "trials")
        y = FigureAxis(f"expected best {comparison.choices.metric}", *with_room(min(ends), max(ends)))
        about = f"expected best score of a search by {label}"
        figures.append(Figure(f"search-{kind}", title, caption, about, x, y, tuple(marks)))
    return figures
