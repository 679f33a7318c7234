"""Drawing as SVG text: axes, lines, bands, dots. Colours are classes, so that one drawing serves light and dark.

A figure is drawn for a width in CSS pixels and shown at that width, so that its text has the size of the page's.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rlx.report.text import one_line

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
