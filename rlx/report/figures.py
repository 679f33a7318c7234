"""The figures of a comparison as PDF and PNG, for papers: legible in print and in grey, told apart by more than colour."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.comparison.comparison import Comparison
from rlx.comparison.descriptive import SettingScore
from rlx.comparison.statistics.interval import Interval
from rlx.comparison.variant import Variant
from rlx.comparison.wording import score_text as number
from rlx.report.tables import interval, percent
from rlx.report.text import figure as figure_text
from rlx.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
# Okabe and Ito's colours, darkest contrasts first: they differ for the colour-blind, and in lightness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
WIDTH = 5.5  # inches, a column and a half
MOST = 12
COSTS = (("kl", "KL to the reference (nats per completion)"), ("tokens", "tokens a run"), ("seconds", "seconds a run"))
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # letters, not outlines: journals ask for it
    "savefig.bbox": "tight",
}
Drawing = tuple[str, float, Callable[["Axes"], None]]


def write_figures(comparison: Comparison, directory: Path) -> list[Path]:
    """Writes every figure as PDF and PNG (300 dpi); returns the directory and the files."""
    import matplotlib
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    written = [directory]
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # labels in scripts that the font lacks
        for name, height, draw in drawings(comparison):
            figure = Figure(figsize=(WIDTH, height), layout="constrained")
            draw(figure.subplots())
            for kind, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 300})):
                path = directory / f"{name}.{kind}"
                figure.savefig(path, **options)
                written.append(path)
    return written


def drawings(comparison: Comparison) -> Iterator[Drawing]:
    """Name, height in inches, and what draws on axes, for every figure that the data allow."""
    count = len(comparison.variants)
    yield "scores", 0.9 + 0.26 * count, lambda ax: _intervals(comparison, ax)
    if any(math.isfinite(pair.low) for pair in comparison.pairs):
        yield "differences", 0.9 + 0.2 * min(40, len(comparison.pairs)), lambda ax: _differences(comparison, ax)
    if 1 < count <= 20:
        yield "improvement", 1.2 + 0.3 * count, lambda ax: _improvement(comparison, ax)
    for index, task in enumerate(comparison.tasks):
        if any(curve.task == task and len(curve.steps) > 1 for curve in comparison.curves):
            name = "curves" if len(comparison.tasks) == 1 else f"curves_{index}"
            yield name, 3.0, lambda ax, task=task: _curves(comparison, task, ax)  # type: ignore[misc]
    yield "profile", 2.6, lambda ax: _profiles(comparison, ax)
    groups = dict.fromkeys((setting.algorithm, setting.key) for setting in comparison.settings)
    for index, (algorithm, key) in enumerate(groups):
        yield f"setting_{index}", 2.4, lambda ax, a=algorithm, k=key: _setting(comparison, a, k, ax)  # type: ignore[misc]
    for name, label in COSTS:
        if sum(getattr(variant, name) is not None for variant in comparison.variants) > 1:
            yield f"pareto_{name}", 2.8, lambda ax, n=name, text=label: _pareto(comparison, n, text, ax)  # type: ignore[misc]
    if len(comparison.tasks) > 1:
        for name, label in (("iqm", "interquartile mean over runs and tasks"), ("optimality_gap", "optimality gap")):
            yield f"aggregate_{name}", 0.9 + 0.26 * count, lambda ax, n=name, text=label: _aggregate(comparison, n, text, ax)  # type: ignore[misc]
    if comparison.searches:
        yield "search", 2.6, lambda ax: _searches(comparison, ax)
    if any(search.tokens for search in comparison.searches):
        yield "search_tokens", 2.6, lambda ax: _searches(comparison, ax, per_tokens=True)


def plain_label(text: str, most: int = 48) -> str:
    """A label that no formula language reads."""
    flat = one_line(text)
    flat = flat if len(flat) <= most else flat[: most // 2] + "…" + flat[-(most // 2 - 1) :]
    return flat.replace("$", r"\$")


def _look(place: int) -> dict[str, Any]:
    turn = place // len(COLOURS)  # a colour that comes again comes with other dashes
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": DASHES[(place + turn) % len(DASHES)]}


def _names(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), [plain_label(name) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)


def _intervals(comparison: Comparison, ax: Axes) -> None:
    for place, variant in enumerate(comparison.variants):
        colour = COLOURS[place % len(COLOURS)]
        ax.plot(variant.scores, [place + 0.22] * len(variant.scores), "|", color=colour, alpha=0.7, markersize=5)
        if variant.interval is not None:
            ax.plot(
                [variant.interval.low, variant.interval.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt"
            )
        ax.plot([variant.mean], [place], "o", color=colour, markersize=4.5)
    _names(ax, [f"{variant.label} (n = {variant.n})" for variant in comparison.variants])
    ax.set_xlabel(f"{comparison.choices.metric}: mean, {100 * comparison.choices.level:g} % interval, seeds")


def _differences(comparison: Comparison, ax: Axes) -> None:
    pairs = [pair for pair in comparison.pairs if math.isfinite(pair.low)][:40]
    margin = comparison.choices.margin
    if margin is not None:
        ax.axvspan(-margin, margin, color="0.88", zorder=0)
    ax.axvline(0, color="0.3", linewidth=0.8, linestyle="--")
    for place, pair in enumerate(pairs):
        decided = pair.verdict in ("better", "worse")
        colour = "#0072B2" if decided else "0.45"
        ax.plot([pair.low, pair.high], [place, place], color=colour, linewidth=2)
        ax.plot([pair.difference], [place], "o", color=colour, markerfacecolor=colour if decided else "white", markersize=5)
    _names(ax, [f"{pair.a} − {pair.b}" for pair in pairs])
    ax.set_xlabel("difference of means (filled: better or worse, adjusted for all pairs)")


def _improvement(comparison: Comparison, ax: Axes) -> None:
    labels = [variant.label for variant in comparison.variants]
    grid = np.full((len(labels), len(labels)), np.nan)
    for pair in comparison.pairs:
        a, b = labels.index(pair.a), labels.index(pair.b)
        grid[a, b], grid[b, a] = pair.probability_of_improvement, 1 - pair.probability_of_improvement
    ax.imshow(grid, cmap="PuOr", vmin=-0.7, vmax=1.7, aspect="auto")
    for row, column in zip(*np.nonzero(np.isfinite(grid)), strict=True):
        ax.text(column, row, f"{100 * grid[row, column]:.0f}", ha="center", va="center", fontsize=7)
    ax.set_yticks(range(len(labels)), [f"{place + 1} {plain_label(label, 30)}" for place, label in enumerate(labels)])
    ax.set_xticks(range(len(labels)), [str(place + 1) for place in range(len(labels))])
    ax.grid(visible=False)
    ax.set_xlabel("% of pairs of runs in which the row beats the column")


def _curves(comparison: Comparison, task: str, ax: Axes) -> None:
    order = [variant.label for variant in comparison.variants]
    mine = sorted((c for c in comparison.curves if c.task == task and len(c.steps) > 1), key=lambda c: order.index(c.variant))
    for curve in mine[:MOST]:
        look = _look(order.index(curve.variant))
        ax.fill_between(curve.steps, curve.low, curve.high, color=look["color"], alpha=0.15, linewidth=0)
        ax.plot(curve.steps, curve.mean, label=plain_label(curve.variant, 36), **look)
    _labelled(ax, "step", comparison.choices.metric, title="" if len(comparison.tasks) == 1 else task)


def _profiles(comparison: Comparison, ax: Axes) -> None:
    for place, profile in enumerate(comparison.profiles[:MOST]):
        look = _look(place)
        ax.fill_between(profile.thresholds, profile.low, profile.high, color=look["color"], alpha=0.12, linewidth=0)
        ax.plot(profile.thresholds, profile.share, label=plain_label(profile.variant, 36), **look)
    _labelled(ax, f"{comparison.choices.metric} above", "share of runs")


def _setting(comparison: Comparison, algorithm: str, key: str, ax: Axes) -> None:
    points = [s for s in comparison.settings if (s.algorithm, s.key) == (algorithm, key)]
    for place, point in enumerate(points):
        if point.interval is not None:
            ax.plot([place, place], [point.interval.low, point.interval.high], color=COLOURS[0])
    ax.plot(range(len(points)), [point.mean for point in points], "o", color=COLOURS[0])
    ax.set_xticks(range(len(points)), [plain_label(figure_text(point.value), 12) for point in points])
    ax.set_xlabel(plain_label(f"{points[0].name} ({algorithm})"))
    ax.set_ylabel(comparison.choices.metric)


def _pareto(comparison: Comparison, name: str, label: str, ax: Axes) -> None:
    for place, variant in enumerate(comparison.variants):
        cost = getattr(variant, name)
        if cost is not None:
            text = plain_label(variant.label, 36) if place < 2 * MOST else None
            ax.plot([cost], [variant.mean], MARKERS[(place + place // 8) % 8], color=COLOURS[place % 8], label=text, markersize=6)
    _labelled(ax, label, comparison.choices.metric)


def _aggregate(comparison: Comparison, name: str, label: str, ax: Axes) -> None:
    for place, variant in enumerate(comparison.variants):
        bar, colour = getattr(variant, f"{name}_interval"), COLOURS[place % len(COLOURS)]
        if bar is not None:
            ax.plot([bar.low, bar.high], [place, place], color=colour, linewidth=2.5, solid_capstyle="butt")
        ax.plot([getattr(variant, name)], [place], "o", color=colour, markersize=4.5)
    _names(ax, [f"{variant.label} (n = {variant.n})" for variant in comparison.variants])
    ax.set_xlabel(f"{label}, {100 * comparison.choices.level:g} % interval (stratified bootstrap)")


def _searches(comparison: Comparison, ax: Axes, *, per_tokens: bool = False) -> None:
    for place, search in enumerate(comparison.searches):
        if per_tokens and not search.tokens:
            continue
        trials = [trial * ((search.tokens or 0) if per_tokens else 1) for trial in range(1, search.trials + 1)]
        look = _look(place)
        ax.fill_between(trials, search.low, search.high, color=look["color"], alpha=0.15, linewidth=0)
        ax.plot(trials, search.expected, label=plain_label(search.algorithm), **look)
    if not per_tokens:
        ax.locator_params(axis="x", integer=True)
    _labelled(ax, "tokens spent" if per_tokens else "settings tried", f"expected best {comparison.choices.metric}")


def _labelled(ax: Axes, x: str, y: str, *, title: str = "") -> None:
    ax.set_xlabel(plain_label(x))
    ax.set_ylabel(plain_label(y))
    if title:
        ax.set_title(plain_label(title))
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


# Drawing as SVG text: axes, lines, bands, dots. Colours are classes, so that one drawing serves light and dark.

WIDE, NARROW = 920, 340  # the two widths at which every figure is drawn
CHAR = 7.4  # the width of a character of the labels' 12 px, in a wide font


@dataclass(frozen=True)
class Figure:
    """A figure of the page. name: its id. legend: numbers of the variants in it. has_seeds: it holds lines of single runs."""

    name: str
    title: str
    caption: str
    wide: str
    narrow: str
    legend: tuple[int, ...] = ()
    has_seeds: bool = False


def twice(draw: Callable[[float], str]) -> tuple[str, str]:
    """One drawing for wide and for narrow screens."""
    return draw(WIDE), draw(NARROW)


def room(low: float, high: float) -> tuple[float, float]:
    """A range with some space around its data."""
    space = (high - low) * 0.05 if high > low else 0.05 * abs(high) or 0.02
    return low - space, high + space


def text_width(text: str) -> float:
    """About how wide a label is, in pixels."""
    return CHAR * len(text)


def shorten(text: str, width: float) -> str:
    """A label cut in its middle to about `width` pixels."""
    most = max(6, int(width / CHAR))
    return text if len(text) <= most else text[: most // 2 - 1] + "…" + text[-(most - most // 2) :]


def escape(text: object) -> str:
    """Text as it may stand in an element or an attribute."""
    return html.escape(one_line(text), quote=True)


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round numbers from low to high; `whole` ones where halves of a thing do not exist."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / max(count, 1)))
    for factor in (1, 2, 5, 10):
        if span / (step * factor) <= count:
            step *= factor
            break
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [value * step for value in range(first, math.floor(high / step + 1e-9) + 1)]


def spread_labels(heights: Sequence[float], *, gap: float = 14) -> list[float]:
    """Where labels go so that none lies on another: each at its height, or pushed down as little as possible."""
    placed = list(heights)
    floor = -math.inf
    for index in sorted(range(len(heights)), key=lambda index: heights[index]):
        placed[index] = floor = max(heights[index], floor + gap)
    return placed


def tick_text(value: float, step: float) -> str:
    """A tick's label: as many decimals as the step needs, thousands and millions in short."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 100:
            return f"{value / size:g}{unit}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    return f"{value:.{min(digits, 6)}f}"


class Plot:
    """A frame with two linear axes. Coordinates of the methods are data; `v` is a variant's number, its colour class."""

    def __init__(
        self,
        width: float,
        height: float,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        left: float = 48,
        right: float = 12,
        top: float = 12,
        bottom: float = 40,
    ) -> None:
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, right, top, bottom
        self.x_range, self.y_range = widened(x), widened(y)
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        """Pixels of a horizontal coordinate."""
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (self.width - self.left - self.right)

    def y(self, value: float) -> float:
        """Pixels of a vertical coordinate."""
        low, high = self.y_range
        return self.height - self.bottom - (value - low) / (high - low) * (self.height - self.top - self.bottom)

    def axes(
        self, x_label: str = "", y_label: str = "", *, x_ticks: int = 6, y_ticks: int = 6, grid: str = "xy", whole: bool = False
    ) -> None:
        """Grid, ticks and labels; an axis that `grid` does not name is left out. whole: x counts things."""
        floor = self.height - self.bottom
        room = max(2, int((self.width - self.left - self.right) / 62))
        if "x" in grid:
            values = ticks(*self.x_range, min(x_ticks, room), whole=whole)
            step = values[1] - values[0] if len(values) > 1 else 1.0
            for value in values:
                self.raw(f'<path class="grid" d="M{self.x(value):.1f} {self.top}V{floor:.1f}"/>')
                self.text(self.x(value), floor + 15, tick_text(value, step), "tick", anchor="middle")
        if "y" in grid:
            values = ticks(*self.y_range, y_ticks)
            step = values[1] - values[0] if len(values) > 1 else 1.0
            for value in values:
                self.raw(f'<path class="grid" d="M{self.left} {self.y(value):.1f}H{self.width - self.right:.1f}"/>')
                self.text(self.left - 6, self.y(value) + 4, tick_text(value, step), "tick", anchor="end")
        if x_label:
            self.text((self.left + self.width - self.right) / 2, self.height - 6, x_label, "label", anchor="middle")
        if y_label:
            turn = f"translate(12 {(self.top + floor) / 2:.1f}) rotate(-90)"
            self.raw(f'<text class="label" text-anchor="middle" transform="{turn}">{escape(y_label)}</text>')

    def raw(self, part: str) -> None:
        """A finished element."""
        self.parts.append(part)

    def text(self, x: float, y: float, text: str, kind: str, *, anchor: str = "start", title: str = "") -> None:
        """A label at pixels."""
        hover = f"<title>{escape(title)}</title>" if title else ""
        self.raw(f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{hover}{escape(text)}</text>')

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str, *, title: str = "") -> None:
        """A line through the points; a point that is not finite breaks it."""
        path, pen = [], "M"
        for x, y in zip(xs, ys, strict=True):
            if math.isfinite(y):
                path.append(f"{pen}{self.x(x):.1f} {self.y(y):.1f}")
                pen = "L"
            else:
                pen = "M"
        hover = f"<title>{escape(title)}</title>" if title else ""
        self.raw(f'<path class="{kind}" d="{"".join(path)}">{hover}</path>')

    def band(self, xs: Iterable[float], low: Iterable[float], high: Iterable[float], kind: str) -> None:
        """The area between two lines, kept inside the frame."""
        floor, ceiling = self.y_range
        points = [(x, a, b) for x, a, b in zip(xs, low, high, strict=True) if math.isfinite(a) and math.isfinite(b)]
        if points:
            there = [f"{self.x(x):.1f} {self.y(min(b, ceiling)):.1f}" for x, _, b in points]
            back = [f"{self.x(x):.1f} {self.y(max(a, floor)):.1f}" for x, a, _ in reversed(points)]
            self.raw(f'<path class="{kind}" d="M{"L".join(there + back)}Z"/>')

    def dot(self, x: float, y: float, kind: str, *, size: float = 4, title: str = "", shape: int = 0) -> None:
        """A marker; the shape tells variants apart where colours do not."""
        a, b, s = self.x(x), self.y(y), size
        hover = f"<title>{escape(title)}</title>" if title else ""
        r = 1.4 * s
        paths = (
            f"M{a - s:.1f} {b - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
            f"M{a:.1f} {b - 1.3 * s:.1f}l{1.2 * s:.1f} {2.2 * s:.1f}h{-2.4 * s:.1f}z",
            f"M{a:.1f} {b - r:.1f}l{r:.1f} {r:.1f}l{-r:.1f} {r:.1f}l{-r:.1f} {-r:.1f}z",
        )
        if shape % 4 == 0:
            self.circle(a, b, kind, s, title)
        else:
            self.raw(f'<path class="{kind}" d="{paths[shape % 4 - 1]}">{hover}</path>')

    def circle(self, x: float, y: float, kind: str, size: float, title: str = "") -> None:
        """A circle at pixels, with what it says when pointed at."""
        hover = f"<title>{escape(title)}</title>" if title else ""
        self.raw(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}">{hover}</circle>')

    def done(self, label: str) -> str:
        """The SVG. label: what the figure shows, for those who cannot see it."""
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        return f'<svg {size} role="img" aria-label="{escape(label)}">{"".join(self.parts)}</svg>'


def widened(span: tuple[float, float]) -> tuple[float, float]:
    """A range of some width, whatever the data."""
    low, high = span
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low < 1e-12 * max(1.0, abs(high)):
        room = max(abs(high) * 0.05, 0.05)
        return low - room, high + room
    return low, high


# Figures about choices: swept hyperparameters, score against what it cost, and what a search may expect.


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


def _draw_setting(comparison: Comparison, points: Sequence[SettingScore], width: float) -> str:
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


def _pareto_figure(
    comparison: Comparison, name: str, title: str, label: str, cost: Callable[[Variant], float | None]
) -> Figure | None:
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


# The figures of the page, each drawn twice: for a wide and for a narrow screen. Draws, computes nothing but positions.

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
