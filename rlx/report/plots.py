"""The figures of a comparison as PDF and PNG, for papers: legible in print and in grey, told apart by more than colour."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.compare.comparison import Comparison
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
