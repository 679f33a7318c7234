"""Figures about scores: means with intervals, differences, the chance of improvement, performance profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rlx.comparison.comparison import Comparison
from rlx.comparison.descriptive import SettingScore
from rlx.comparison.statistics.interval import Interval
from rlx.comparison.wording import score_text
from rlx.report.figure.base import Band, Bar, Dot, Figure, FigureAxis, Line, Mark, Rule, Tile, Zone, with_room
from rlx.report.text import interval, level, one_line, percent, significant

MOST_LINES = 12  # more lines in one figure cannot be distinguished
MOST_ROWS = 40
MOST_IN_MATRIX = 16
MANY = 6  # more bands than this would hide each other, so they become fainter


def score_figure(comparison: Comparison) -> list[Figure]:
    """Each variant's mean with its interval, and every seed."""
    shown = comparison.variants[:MOST_ROWS]
    marks: list[Mark] = []
    seeds = {arm.label: [seed for task in arm.seeds for seed in task] for arm in comparison.arms}
    ends: list[float] = []
    for place, variant in enumerate(shown):
        for value, seed in zip(variant.scores, seeds[variant.label], strict=True):
            hover = f"{variant.label}, seed {seed}: {score_text(value)}"
            marks.append(Dot(value, place + 0.2, place, hover, role="seed"))
        found = variant.interval
        hover = f"{variant.label}: mean {score_text(variant.mean)} {interval(found)}, {variant.n} seeds"
        marks += _estimate(variant.mean, found, place - 0.1, place, hover)
        ends += [*variant.scores, *((found.low, found.high) if found else ())]
    few = f" The best {len(shown)} of {len(comparison.variants)} variants." if len(shown) < len(comparison.variants) else ""
    caption = (
        f"Large dot: mean. Bar: {level(comparison)} interval of the mean. Small marks: single seeds. Overlapping bars are no "
        f"test; the verdicts are.{few}"
    )
    x = FigureAxis(comparison.choices.metric, *with_room(min(ends), max(ends)))
    names = FigureAxis(names=tuple(f"{variant.label} (n = {variant.n})" for variant in shown))
    about = "mean score of each variant with its interval and its seeds"
    return [Figure("scores", "Scores", caption, about, x, names, tuple(marks))]


def _estimate(value: float, around: Interval | None, at: float, colour: int | str, hover: str) -> list[Mark]:
    """A dot with its interval."""
    bar: list[Mark] = [Bar(around.low, around.high, at, colour)] if around is not None else []
    return [*bar, Dot(value, at, colour, hover)]


def aggregate_figures(comparison: Comparison) -> list[Figure]:
    """Over several tasks: interquartile mean and optimality gap of each variant, with bootstrap intervals over runs."""
    if len(comparison.tasks) < 2:
        return []
    gap = f"Optimality gap from {comparison.choices.target:g}"
    kinds = (
        ("iqm", "Interquartile mean over runs and tasks", "Lower" if comparison.choices.is_lower_better else "Higher", "iqm"),
        ("gap", gap, "Lower", "optimality_gap"),
    )
    figures = []
    for name, title, better, key in kinds:
        rows = [(place, v.label, getattr(v, key), getattr(v, f"{key}_interval")) for place, v in enumerate(comparison.variants)]
        rows = [row for row in rows if row[2] is not None][:MOST_ROWS]
        marks: list[Mark] = []
        for at, (place, label, value, around) in enumerate(rows):
            marks += _estimate(value, around, at, place, f"{label}: {score_text(value)} {interval(around)}")
        ends = [end for _, _, value, around in rows for end in ((around.low, around.high) if around else (value,))]
        caption = (
            f"{level(comparison)} interval by stratified bootstrap: runs are resampled within each task. {better} is better."
        )
        names = FigureAxis(names=tuple(label for _, label, _, _ in rows))
        x = FigureAxis(title, *with_room(min(ends), max(ends)))
        figures.append(Figure(f"aggregate-{name}", title, caption, title, x, names, tuple(marks)))
    return figures


def difference_figure(comparison: Comparison) -> list[Figure]:
    """The difference of each pair with its interval, and the margin as a band around zero."""
    pairs = [pair for pair in comparison.pairs if math.isfinite(pair.low)][:MOST_ROWS]
    if not pairs:
        return []
    margin = comparison.choices.margin or 0.0
    low, high = min(0.0, -margin, *(pair.low for pair in pairs)), max(0.0, margin, *(pair.high for pair in pairs))
    marks: list[Mark] = [*([Zone(-margin, margin)] if margin else []), Rule(0.0)]
    for place, pair in enumerate(pairs):
        marks += [Bar(pair.low, pair.high, place, pair.verdict), Dot(pair.difference, place, pair.verdict, pair.words)]
    shaded = " Shaded: the margin that does not matter." if margin else ""
    more = f" The first {len(pairs)} of {len(comparison.pairs)} pairs." if len(comparison.pairs) > len(pairs) else ""
    caption = (
        f"{level(comparison)} interval of each difference, for itself; the verdict, which colours it (in print: filled where "
        f"decided), also allows for the number of pairs.{shaded}{more}"
    )
    names = FigureAxis(names=tuple(f"{one_line(pair.a)}\n− {one_line(pair.b)}" for pair in pairs))
    about, x = "difference of each pair with its interval", FigureAxis("difference of means", *with_room(low, high))
    return [Figure("differences", "Differences", caption, about, x, names, tuple(marks))]


def improvement_figure(comparison: Comparison) -> list[Figure]:
    """A matrix of the chances that a run of the row beats a run of the column; no figure for two variants."""
    labels = [variant.label for variant in comparison.variants][:MOST_IN_MATRIX]
    if len(labels) < 3:
        return []
    chance: dict[tuple[str, str], tuple[float, str]] = {}
    for pair in comparison.pairs:
        there, back = pair.probability_of_improvement, 1 - pair.probability_of_improvement
        chance[pair.a, pair.b], chance[pair.b, pair.a] = (there, pair.words), (back, pair.words)
    marks = []
    for row, label in enumerate(labels):
        for column, other in enumerate(labels):
            share, words = chance.get((label, other), (math.nan, ""))
            if label != other and math.isfinite(share):
                hover = f"{label} beats {other}: {percent(share)}. {words}"
                marks.append(Tile(column, row, share, f"{100 * share:.0f}", hover))
    more_or_less = "lower" if comparison.choices.is_lower_better else "higher"
    caption = (
        f"Chance in percent that a run of the row's variant beats one of the column's ({more_or_less} is better), ties counting "
        "half. 50\u00a0% is no difference."
    )
    more = f" The best {len(labels)} variants." if len(comparison.variants) > len(labels) else ""
    names = FigureAxis(names=tuple(labels))
    about = "probability of improvement of the row over the column"
    return [Figure("improvement", "Probability of improvement", caption + more, about, names, names, tuple(marks))]


def profile_figure(comparison: Comparison) -> list[Figure]:
    """Performance profiles: the share of runs above each score, with a step at each run. None if all scores are equal."""
    shown = comparison.profiles[:MOST_LINES]
    every = {score for arm in comparison.arms for scores in arm.scores for score in scores.tolist()}
    if sum(len(scores) for scores in comparison.arms[0].scores) < 2 or len(every) < 2:
        return []
    marks: list[Mark] = []
    for place, profile in enumerate(shown):
        xs = profile.thresholds.tolist()
        faint = len(shown) > MANY
        marks.append(Band(xs, profile.low.tolist(), profile.high.tolist(), place, is_faint=faint, is_stepped=True))
        marks.append(Line(xs, profile.share.tolist(), place, profile.variant, is_stepped=True))
    tasks = ", each task counting the same" if len(comparison.tasks) > 1 else ""
    caption = (
        f"Share of runs that score above a threshold{tasks}, with a pointwise bootstrap band. A curve that lies "
        f"{'lower' if comparison.choices.is_lower_better else 'higher'} everywhere is better."
    )
    grid = shown[0].thresholds
    x, y = (
        FigureAxis(f"{comparison.choices.metric} above", float(grid[0]), float(grid[-1])),
        FigureAxis("share of runs", 0.0, 1.0),
    )
    legend = legend_of(comparison, range(len(shown)))
    about = "performance profile: share of runs above each score"
    return [Figure("profile", "Performance profile", caption, about, x, y, tuple(marks), legend)]


def legend_of(comparison: Comparison, places: Sequence[int]) -> tuple[tuple[int, str], ...]:
    """The legend of the variants at these indices."""
    return tuple((place, one_line(comparison.variants[place].label)) for place in places)


# Figures about settings: swept hyperparameters, score against cost, and the expected result of a search.


COSTS = (
    ("kl", "Score against KL", "KL to the reference (nats per completion)"),
    ("tokens", "Score against tokens", "tokens sampled and trained, a run"),
    ("seconds", "Score against time", "seconds a run"),
)
MOST_VALUES = 60
MOST_IN_LEGEND = 24


def importance_figures(comparison: Comparison) -> list[Figure]:
    """The share of score variance that each swept key explains, one figure per algorithm with several swept keys."""
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
    """The score at each value of a swept key, one figure per key and algorithm."""
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
    """Score against KL, tokens and seconds; Pareto-optimal variants are ringed. None for a cost that all variants share."""
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
