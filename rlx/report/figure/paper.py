"""Draws figures as PDF and PNG for papers: legible in print and in grey, distinguished by more than colour."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.report.figure.base import MOST_LABELLED, Band, Bar, Colour, Dot, Figure, Line, Mark, Rule, Tile, Zone
from rlx.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, strongest contrasts first: distinguishable by colour-blind readers and in lightness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#7F7F7F")
VERDICTS = {"better": "#0072B2", "worse": "#0072B2"}  # decided verdicts; all others are grey
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vP*X"
WIDTH = 5.5  # inches, one and a half columns
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
    "pdf.fonttype": 42,  # embeds fonts instead of outlines, as journals require
    "savefig.bbox": "tight",
}


def write_figures(figures: Iterable[Figure], directory: Path) -> list[Path]:
    """Write each figure as PDF and PNG (300 dpi); return the directory and the files."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    directory.mkdir(parents=True, exist_ok=True)
    written = [directory]
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # labels in scripts missing from the font
        for figure in figures:
            canvas = Canvas(figsize=(WIDTH, _height(figure)), layout="constrained")
            draw_on_axes(figure, canvas.subplots())
            for kind, options in (("pdf", {"metadata": {"CreationDate": None}}), ("png", {"dpi": 300})):
                path = directory / f"{figure.name.replace('/', '_')}.{kind}"
                canvas.savefig(path, **options)
                written.append(path)
    return written


def draw_on_axes(figure: Figure, axes: Axes) -> None:
    """Draw the figure on matplotlib axes."""
    for mark in figure.marks:
        _DRAWN[type(mark)](axes, mark)
    dots = [mark for mark in figure.marks if isinstance(mark, Dot) and mark.label]
    for dot in dots if len(dots) <= MOST_LABELLED and not figure.legend else ():
        axes.annotate(plain_label(dot.label, 30), (dot.x, dot.y), xytext=(6, -3), textcoords="offset points", fontsize=7)
    (left, right), (bottom, top) = figure.x.span, figure.y.span
    axes.set_xlim(left, right)
    axes.set_ylim(*((top, bottom) if figure.y.names else (bottom, top)))
    if figure.y.names:
        axes.set_yticks(range(len(figure.y.names)), [_row_name(figure, place) for place in range(len(figure.y.names))])
    if figure.is_matrix:
        axes.set_xticks(range(len(figure.x.names)), [str(place + 1) for place in range(len(figure.x.names))])
    elif figure.x.names:
        every = max(1, math.ceil(len(figure.x.names) / 12))
        shown = range(0, len(figure.x.names), every)
        axes.set_xticks(shown, [plain_label(figure.x.names[place], 12) for place in shown])
    elif figure.x.is_whole:
        axes.locator_params(axis="x", integer=True)
    axes.grid(visible=figure.x.has_grid and not figure.x.names, axis="x")
    axes.grid(visible=figure.y.has_grid and not figure.y.names, axis="y")
    axes.set_xlabel(plain_label(figure.x.label, 80))
    axes.set_ylabel(plain_label(figure.y.label))
    _add_legend(figure, axes)


def plain_label(text: str, most: int = 48) -> str:
    """A label with formula characters escaped."""
    flat = one_line(text)
    flat = flat if len(flat) <= most else flat[: most // 2] + "…" + flat[-(most // 2 - 1) :]
    return flat.replace("$", r"\$")


def line_style(colour: Colour) -> dict[str, Any]:
    """Colour and dashes of a line; a repeated colour gets different dashes."""
    if isinstance(colour, str):
        return {"color": VERDICTS.get(colour, "0.45"), "linestyle": "-"}
    turn = colour // len(COLOURS)
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": DASHES[(colour + turn) % len(DASHES)]}


def _height(figure: Figure) -> float:
    """The height in inches."""
    rows = len(figure.y.names)
    lines = max((_row_name(figure, place).count("\n") for place in range(rows)), default=0)
    return 1.2 + 0.3 * rows if figure.is_matrix else 0.9 + (0.26 + 0.1 * lines) * rows if rows else 2.8


def _row_name(figure: Figure, place: int) -> str:
    """A row's name, in two lines if one is too short for it."""
    number, name = f"{place + 1} " if figure.is_matrix else "", figure.y.names[place]
    return number + (" " if len(name) <= 40 else "\n").join(plain_label(part, 40) for part in name.split("\n"))


def _marker(colour: Colour) -> str:
    return "o" if isinstance(colour, str) else MARKERS[(colour + colour // len(MARKERS)) % len(MARKERS)]


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Add the legend beside the plot."""
    if not figure.legend:
        return
    from matplotlib.lines import Line2D

    has_lines = any(isinstance(mark, Line) for mark in figure.marks)
    handles = []
    for colour, label in figure.legend:
        shape = (
            line_style(colour)
            if has_lines
            else {"color": line_style(colour)["color"], "linestyle": "", "marker": _marker(colour)}
        )
        handles.append(Line2D([], [], label=plain_label(label, 36), **shape))
    axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _line(axes: Axes, mark: Line) -> None:
    style = {**line_style(mark.colour), "drawstyle": "steps-post" if mark.is_stepped else "default"}
    if mark.role == "seed":
        return  # single runs are shown only on the page, where they can be distinguished
    faint = {"alpha": 0.4, "linewidth": 0.8} if mark.role == "faint" else {}
    axes.plot(mark.xs, mark.ys, **{**style, **faint})
    if mark.label:
        axes.annotate(
            plain_label(mark.label, 30), (mark.xs[-1], mark.ys[-1]), xytext=(-3, 4), textcoords="offset points", ha="right"
        )


def _band(axes: Axes, mark: Band) -> None:
    step: Any = "post" if mark.is_stepped else None
    alpha = 0.06 if mark.is_faint else 0.15
    axes.fill_between(mark.xs, mark.low, mark.high, color=line_style(mark.colour)["color"], alpha=alpha, linewidth=0, step=step)


def _bar(axes: Axes, mark: Bar) -> None:
    ends, at, colour = [mark.low, mark.high], [mark.at, mark.at], line_style(mark.colour)["color"]
    if mark.is_upright:
        axes.plot(at, ends, color=colour)
    else:
        axes.plot(ends, at, color=colour, linewidth=2.5, solid_capstyle="butt")


def _dot(axes: Axes, mark: Dot) -> None:
    colour = line_style(mark.colour)["color"]
    if mark.role == "seed":
        axes.plot([mark.x], [mark.y], "|", color=colour, alpha=0.7, markersize=5)
    elif mark.role == "ring":
        axes.plot([mark.x], [mark.y], "o", color="0.2", markerfacecolor="none", markersize=11, markeredgewidth=0.8)
    else:
        face = "white" if isinstance(mark.colour, str) and mark.colour not in VERDICTS else colour
        axes.plot([mark.x], [mark.y], _marker(mark.colour), color=colour, markerfacecolor=face, markersize=5)


def _tile(axes: Axes, mark: Tile) -> None:
    from matplotlib.patches import Rectangle

    strength = abs(mark.share - 0.5) * 2
    colour = COLOURS[0] if mark.share >= 0.5 else COLOURS[1]
    axes.add_patch(Rectangle((mark.x - 0.5, mark.y - 0.5), 1, 1, color=colour, alpha=0.05 + 0.5 * strength, linewidth=0))
    axes.text(mark.x, mark.y, mark.text, ha="center", va="center", fontsize=7)


def _zone(axes: Axes, mark: Zone) -> None:
    axes.axvspan(mark.low, mark.high, color="0.88", zorder=0)


def _rule(axes: Axes, mark: Rule) -> None:
    axes.axvline(mark.x, color="0.3", linewidth=0.8, linestyle="--")


_DRAWN: dict[type[Mark], Callable[[Axes, Any], None]] = {
    Line: _line,
    Band: _band,
    Bar: _bar,
    Dot: _dot,
    Tile: _tile,
    Zone: _zone,
    Rule: _rule,
}
