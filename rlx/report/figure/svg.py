"""Draws a figure as SVG for the page: one drawing for all widths, with hover texts; colours are CSS classes.

Positions are percentages of the plot, so the drawing scales with the screen while letters, dots and lines keep their size.
Lines and bands are drawn in a box of 1000 by 1000 units that is stretched over the plot. A `v<n>` class sets a variant's colour
and lets the page show or hide it; the style sheet chooses between a wide and a narrow layout of names.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise

from rlx.report.figure.base import (
    MOST_LABELLED,
    Band,
    Bar,
    Colour,
    Dot,
    Figure,
    FigureAxis,
    Line,
    Rule,
    Tile,
    Zone,
    tick_text,
    ticks,
)
from rlx.report.text import one_line

BOX = 1000  # units along each side of the box for lines and bands
MATRIX_NAME = 16  # characters per line beside a matrix on narrow screens
CHARACTER = 7.4  # pixels per character of 12 px labels in a wide font
LABEL_GAP = 14  # pixels between two labels
HEIGHT = 270  # pixels of a plot without rows
NARROW_ROW, TALL_ROW = 46, 62  # pixels of a row on narrow screens, with its name above its marks in one or two lines
NARROW = 44  # characters that fit on a narrow screen
NARROW_AXIS = 52  # characters that fit there in the smaller font below an axis
TABLE_OF_SHAPES = ("M-{s} -{s}h{d}v{d}h-{d}z", "M0 -{t}l{u} {w}h-{x}z", "M0 -{r}l{r} {r}l-{r} {r}l-{r} -{r}z")


def draw_svg(figure: Figure) -> str:
    """The figure as one element: a plot with margins for its labels."""
    plot = _Plot(figure)
    rows = len(figure.y.names)
    left = plot.room_for_names() if rows else 54
    kind = "matrix" if figure.is_matrix else "rows" if rows else "lines"
    row, shift = (TALL_ROW, 16) if plot.is_tall else (NARROW_ROW, 9)
    style = f"--left:{left}px;--rows:{rows};--height:{HEIGHT}px;--narrow:{row}px;--shift:{shift}px"
    heading = "" if figure.is_matrix or not figure.y.label else f'<p class="y-label">{escape(figure.y.label)}</p>'
    return (
        f'{heading}<div class="plot {kind}" style="{style}"><svg width="100%" role="img" aria-label="{escape(figure.about)}">'
        f"{plot.axes()}{plot.behind()}{plot.stretched()}{plot.on_top()}{plot.names()}</svg></div>"
    )


def escape(text: object) -> str:
    """Text escaped for an element or an attribute."""
    return html.escape(one_line(text), quote=True)


def shorten(text: str, most: int) -> str:
    """A label shortened in its middle to `most` characters."""
    most = max(6, most)
    return text if len(text) <= most else text[: most // 2 - 1] + "…" + text[-(most - most // 2) :]


def in_two_lines(name: str, most: int) -> list[str]:
    """A name in at most two lines, broken between words; the second one is shortened in its middle if necessary."""
    first = textwrap.wrap(name, most)[0] if len(name) > most else name
    rest = name[len(first) :].strip()
    return [first, shorten(rest, most)] if rest else [first]


def spread_labels(heights: Sequence[float], *, lowest: float = math.inf) -> list[float]:
    """Positions of labels without overlap: each at its height, or pushed down as little as possible, and up again from
    `lowest`, below which the axis has its own labels."""
    placed = list(heights)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    floor, ceiling = -math.inf, lowest
    for index in order:
        placed[index] = floor = max(heights[index], floor + LABEL_GAP)
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - LABEL_GAP
    return placed


def colour_class(colour: Colour) -> str:
    """The CSS class of a variant or verdict."""
    return f"v{colour}" if isinstance(colour, int) else f"verdict-{colour}"


def is_long(figure: Figure) -> bool:
    """Whether the names of its rows need more width than other figures have."""
    return not figure.is_matrix and _longest(figure) > 34


def _longest(figure: Figure) -> int:
    """The number of characters of the longest row name."""
    return max(map(len, figure.y.names), default=0)


def _title(hover: str) -> str:
    return f"<title>{escape(hover)}</title>" if hover else ""


class _Plot:
    """The parts of one drawing."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        (self.left, self.right), (self.bottom, self.top) = figure.x.span, figure.y.span

    def x(self, value: float) -> float:
        """The position of a value on the horizontal axis, as a share of the width."""
        return (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        """The position of a value as a share of the height, from the top; an axis of names runs downwards."""
        share = (value - self.bottom) / (self.top - self.bottom)
        return share if self.figure.y.names else 1 - share

    @property
    def is_tall(self) -> bool:
        """Whether the names of rows continue in a second line on a narrow screen."""
        return not self.figure.is_matrix and any("\n" in name for name in self.figure.y.names) and _longest(self.figure) > NARROW

    def room_for_names(self) -> int:
        """The width of the names left of the rows, in pixels."""
        longest = _longest(self.figure) + (3 if self.figure.is_matrix else 0)
        if is_long(self.figure):  # names of two parts get one line for each
            longest = max(len(part) for name in self.figure.y.names for part in name.split("\n"))
        return round(min(420.0 if is_long(self.figure) else 260.0, CHARACTER * longest + 20))

    def text(
        self, x: float, y: float, text: str, kind: str, *, anchor: str = "start", dx: float = 0, dy: float = 0, hover: str = ""
    ) -> str:
        """A label at shares of the plot, moved by pixels."""
        place = f'x="{_percent(x)}" y="{_percent(y)}"' + (f' dx="{dx:g}"' if dx else "") + (f' dy="{dy:g}"' if dy else "")
        return f'<text class="{kind}" {place} text-anchor="{anchor}">{_title(hover)}{escape(text)}</text>'

    def axes(self) -> str:
        """Draw the grid and the ticks."""
        figure = self.figure
        parts = [] if figure.y.names else self._numbers(figure.y, upright=True)
        if figure.is_matrix:
            parts += [
                self.text(self.x(place), 0, str(place + 1), "tick", anchor="middle", dy=-6, hover=name)
                for place, name in enumerate(figure.x.names)
            ]
        elif figure.x.names:
            every = max(1, math.ceil(len(figure.x.names) / 6))
            room = max(10, NARROW_AXIS // len(figure.x.names))
            for place, name in enumerate(figure.x.names):
                kind = "tick" if place % every == 0 else "tick minor"
                parts.append(self.text(self.x(place), 1, shorten(name, room), kind, anchor="middle", dy=15, hover=name))
        else:
            parts += self._numbers(figure.x, upright=False)
        if figure.x.label:
            parts.append(self.text(0.5, 1, figure.x.label, "label", anchor="middle", dy=34))
        return "".join(parts)

    def _numbers(self, axis: FigureAxis, *, upright: bool) -> list[str]:
        """The ticks of a numeric axis, with grid lines."""
        values = ticks(*axis.span, 5, whole=axis.is_whole)
        step = values[1] - values[0] if len(values) > 1 else 1.0
        parts = []
        for value in values:
            share, shown = (self.y(value) if upright else self.x(value)), tick_text(value, step)
            at = _percent(share)
            if axis.has_grid:
                ends = f'x1="0" x2="100%" y1="{at}" y2="{at}"' if upright else f'x1="{at}" x2="{at}" y1="0" y2="100%"'
                parts.append(f'<line class="grid" {ends}/>')
            if upright:
                parts.append(self.text(0, share, shown, "tick", anchor="end", dx=-6, dy=4))
            else:
                parts.append(self.text(share, 1, shown, "tick", anchor="middle", dy=15))
        return parts

    def names(self) -> str:
        """Names of rows, both on the left and, for narrow screens, above the marks; one of the two is shown."""
        figure, parts = self.figure, []
        fits = int((self.room_for_names() - 14) / CHARACTER)
        for place, name in enumerate(figure.y.names):
            number, hover = f"{place + 1} " if figure.is_matrix else "", name.replace("\n", " ")
            middle, most = self.y(place), fits - len(number)
            for line, text in enumerate(lines := [hover] if len(name) <= most else name.split("\n")):
                dy = 4 + 7 * (2 * line - len(lines) + 1)
                long = number * (line == 0) + shorten(text, most)
                parts.append(self.text(0, middle, long, "name beside", anchor="end", dx=-10, dy=dy, hover=hover))
            if figure.is_matrix:
                lines = in_two_lines(number + hover, MATRIX_NAME)
                for line, text in enumerate(lines):
                    dy = 4 + 7 * (2 * line - len(lines) + 1)
                    parts.append(self.text(0, middle, text, "name above", anchor="end", dx=-6, dy=dy, hover=hover))
            else:
                lines = name.split("\n") if self.is_tall else [hover]
                for line, text in enumerate(lines):
                    top, dy = place / len(figure.y.names), 14 + 15 * line
                    parts.append(self.text(0, top, shorten(text, NARROW), "name above", dy=dy, hover=hover))
        return "".join(parts)

    def behind(self) -> str:
        """The background marks, below everything else."""
        parts, rows = [], len(self.figure.y.names)
        for mark in self.figure.marks:
            if isinstance(mark, Zone):
                left, width = self.x(mark.low), self.x(mark.high) - self.x(mark.low)
                parts.append(f'<rect class="zone" x="{_percent(left)}" y="0" width="{_percent(width)}" height="100%"/>')
            elif isinstance(mark, Rule):  # one piece per row, which on a narrow screen ends below the row's name
                at = _percent(self.x(mark.x))
                top, end = (0.3, 0.75) if self.is_tall else (0.22, 0.78)
                pieces = [(row + top, row + end) for row in range(rows)] if rows else [(0, 1)]
                for start, end in pieces:
                    ends = f'y1="{_percent(start / max(rows, 1))}" y2="{_percent(end / max(rows, 1))}"'
                    parts.append(f'<line class="zero" x1="{at}" x2="{at}" {ends}/>')
        return "".join(parts) if not rows else f'<g class="marks">{"".join(parts)}</g>'

    def stretched(self) -> str:
        """Bands, then lines: single runs first, means last."""
        order = {"faint": 0, "seed": 1, "mean": 2}
        bands = [self._band(mark) for mark in self.figure.marks if isinstance(mark, Band)]
        lines = sorted((mark for mark in self.figure.marks if isinstance(mark, Line)), key=lambda mark: order[mark.role])
        if not bands and not lines:
            return ""
        size = f'width="100%" height="100%" viewBox="0 0 {BOX} {BOX}" preserveAspectRatio="none"'
        labels = "".join(self._line_label(mark) for mark in lines if mark.label)
        return f"<svg {size}>{''.join(bands)}{''.join(map(self._line, lines))}</svg>{labels}"

    def on_top(self) -> str:
        """Draw bars, dots and cells over the grid."""
        parts = [self._tile(mark) for mark in self.figure.marks if isinstance(mark, Tile)]
        parts += [self._bar(mark) for mark in self.figure.marks if isinstance(mark, Bar)]
        dots = [mark for mark in self.figure.marks if isinstance(mark, Dot)]
        parts += [self._dot(mark) for mark in sorted(dots, key=lambda dot: ("ring", "seed", "mean").index(dot.role))]
        labelled = [dot for dot in dots if dot.label]
        if len(labelled) <= MOST_LABELLED:
            heights = spread_labels([self.y(dot.y) * HEIGHT for dot in labelled], lowest=HEIGHT - 10)
            for dot, height in zip(labelled, heights, strict=True):
                share, is_right = self.x(dot.x), self.x(dot.x) > 0.6
                options = {"anchor": "end" if is_right else "start", "dx": -12 if is_right else 12, "dy": 4}
                kind = f"name point-label {colour_class(dot.colour)}"
                parts.append(self.text(share, height / HEIGHT, shorten(dot.label, 30), kind, hover=dot.label, **options))  # type: ignore[arg-type]
        return f'<g class="marks">{"".join(parts)}</g>' if self.figure.y.names else "".join(parts)

    def _tile(self, mark: Tile) -> str:
        columns, rows = len(self.figure.x.names), len(self.figure.y.names)
        side, strength = ("win" if mark.share >= 0.5 else "lose"), abs(mark.share - 0.5) * 2
        box = f'x="{_percent(mark.x / columns)}" y="{_percent(mark.y / rows)}" '
        box += f'width="{_percent(1 / columns)}" height="{_percent(1 / rows)}"'
        kind = "cell many" if columns > 8 else "cell"
        words = self.text(self.x(mark.x), self.y(mark.y), mark.text, kind, anchor="middle", dy=4)
        hover = _title(mark.hover)
        return f'<rect class="{side}" fill-opacity="{0.08 + 0.72 * strength:.2f}" {box}>{hover}</rect>{words}'

    def _bar(self, mark: Bar) -> str:
        kind = f"{colour_class(mark.colour)} bar"
        if mark.is_upright:
            x, low, high = self.x(mark.at), _clipped(self.y(mark.low)), _clipped(self.y(mark.high))
            return f'<line class="{kind} thin" x1="{_percent(x)}" x2="{_percent(x)}" y1="{_percent(high)}" y2="{_percent(low)}"/>'
        y, low, high = self.y(mark.at), _clipped(self.x(mark.low)), _clipped(self.x(mark.high))
        return f'<line class="{kind}" x1="{_percent(low)}" x2="{_percent(high)}" y1="{_percent(y)}" y2="{_percent(y)}"/>'

    def _dot(self, mark: Dot) -> str:
        place = f'cx="{_percent(self.x(mark.x))}" cy="{_percent(self.y(mark.y))}"'
        if mark.role == "ring":
            return f'<circle class="{colour_class(mark.colour)} ring" {place} r="9"/>'
        if mark.role == "seed":
            return f'<circle class="{colour_class(mark.colour)} seed-dot" {place} r="3">{_title(mark.hover)}</circle>'
        shape = mark.colour // 8 % 4 if isinstance(mark.colour, int) else 0  # repeated colours get different shapes
        kind = f"{colour_class(mark.colour)} mean"
        if shape == 0:
            return f'<circle class="{kind}" {place} r="5">{_title(mark.hover)}</circle>'
        sizes = {"s": 5, "d": 10, "t": 6.5, "u": 6, "w": 11, "x": 12, "r": 7}
        path = TABLE_OF_SHAPES[shape - 1].format(**sizes)
        origin = f'x="{_percent(self.x(mark.x))}" y="{_percent(self.y(mark.y))}"'
        return f'<svg class="shape" {origin}><path class="{kind}" d="{path}">{_title(mark.hover)}</path></svg>'

    def _line(self, mark: Line) -> str:
        kinds = {"mean": "curve", "seed": "seed", "faint": "curve faint"}
        dash = f" d{mark.colour // 8 % 3}" if mark.role == "mean" and isinstance(mark.colour, int) else ""
        path = "".join(self._path(piece, is_stepped=mark.is_stepped) for piece in _pieces(mark.xs, mark.ys))
        return f'<path class="{colour_class(mark.colour)} {kinds[mark.role]}{dash}" d="{path}">{_title(mark.hover)}</path>'

    def _band(self, mark: Band) -> str:
        points = [
            (x, a, b) for x, a, b in zip(mark.xs, mark.low, mark.high, strict=True) if math.isfinite(a) and math.isfinite(b)
        ]
        there = self._path([(x, b) for x, _, b in points], is_stepped=mark.is_stepped)
        back = self._path([(x, a) for x, a, _ in points], is_stepped=mark.is_stepped, backwards=True)
        kind = "band many" if mark.is_faint else "band"
        return f'<path class="{colour_class(mark.colour)} {kind}" d="{there}{back.replace("M", "L")}Z"/>' if points else ""

    def _line_label(self, mark: Line) -> str:
        end = max(index for index, y in enumerate(mark.ys) if math.isfinite(y))
        share = self.x(mark.xs[end])
        kind = f"name {colour_class(mark.colour)}"
        return self.text(share, self.y(mark.ys[end]), shorten(mark.label, 40), kind, anchor="end", dx=-4, dy=-8)

    def _path(self, points: Iterable[tuple[float, float]], *, is_stepped: bool, backwards: bool = False) -> str:
        """The path commands through points, in integer units of the box; points outside are moved to the plot's edge."""
        places = [(round(BOX * self.x(x)), round(BOX * _clipped(self.y(y)))) for x, y in points]
        corners: list[tuple[int, int]] = []
        for x, y in places:
            if is_stepped and corners:
                corners.append((x, corners[-1][1]))
            if not corners or corners[-1] != (x, y):
                corners.append((x, y))
        if backwards:
            corners.reverse()
        commands = [f"M{corners[0][0]} {corners[0][1]}"] if corners else []
        for (x, y), (u, v) in pairwise(corners):
            commands.append(f"h{u - x}" if v == y else f"v{v - y}" if u == x else f"l{u - x}{v - y:+d}".replace("+", " "))
        return "".join(commands)


def _pieces(xs: Sequence[float], ys: Sequence[float]) -> list[list[tuple[float, float]]]:
    """The contiguous runs of finite points."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            pieces[-1].append((float(x), float(y)))
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _clipped(share: float) -> float:
    return min(1.0, max(0.0, share))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"
