"""Figures about scores: means with intervals, differences, the chance of improvement, performance profiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlx.comparison.comparison import Comparison
from rlx.comparison.statistics.interval import Interval
from rlx.comparison.wording import score_text
from rlx.report.figure.base import Band, Bar, Dot, Figure, FigureAxis, Line, Mark, Rule, Tile, Zone, with_room
from rlx.report.text import interval, level, one_line, percent

MOST_LINES = 12  # more lines in one figure cannot be told apart
MOST_ROWS = 40
MOST_IN_MATRIX = 16
MANY = 6  # more bands than this hide each other: they become fainter


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
    """A dot in its interval."""
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
    """The difference of each pair with its interval; the margin as a band around zero."""
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
    """A matrix: the chance that a run of the row beats a run of the column. Two variants have one such number: no figure."""
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
    """Performance profiles: the share of runs above each score, a step at each run. None where all runs score alike."""
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
    """The variants at these places, with their labels."""
    return tuple((place, one_line(comparison.variants[place].label)) for place in places)
