"""The content of a figure: axes, marks, a legend and a caption, independent of the renderer.

`svg` draws a figure for the page and `paper` draws it with matplotlib; both read the same marks, so a figure's content is
written once. Coordinates are those of the data. An axis of names puts its i-th name at i, the first one at the top or left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Colour = int | str  # a variant's index, or a word for both renderers: better, worse, equivalent, inconclusive, exploratory
MOST_LABELLED = 10  # labels beside points; more would overlap


@dataclass(frozen=True)
class FigureAxis:
    """An axis from `low` to `high`. names: labels at 0, 1, 2, ... instead of numbers; a name may continue in a second line if
    one is too short. is_whole: it counts things, so ticks are integers.

    has_grid: whether grid lines extend from the ticks across the plot.
    """

    label: str = ""
    low: float = 0.0
    high: float = 1.0
    names: tuple[str, ...] = ()
    is_whole: bool = False
    has_grid: bool = True

    @property
    def span(self) -> tuple[float, float]:
        """The limits that both renderers use, never of zero width."""
        return (-0.5, len(self.names) - 0.5) if self.names else broadened(self.low, self.high)


@dataclass(frozen=True)
class Line:
    """A line through points; a non-finite point breaks it. role: mean, seed (shown on demand) or faint.

    is_stepped: each value holds until the next x. label: stands at its end.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    colour: Colour
    hover: str = ""
    role: Literal["mean", "seed", "faint"] = "mean"
    is_stepped: bool = False
    label: str = ""


@dataclass(frozen=True)
class Band:
    """The area between two lines; points where either is not finite are left out."""

    xs: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: Colour
    is_faint: bool = False
    is_stepped: bool = False


@dataclass(frozen=True)
class Bar:
    """An interval from `low` to `high` at `at`. is_upright: it runs along y, otherwise along x."""

    low: float
    high: float
    at: float
    colour: Colour
    is_upright: bool = False


@dataclass(frozen=True)
class Dot:
    """A point. role: mean, seed (one run) or ring (an empty circle around a point). label: stands beside it, if there is room."""

    x: float
    y: float
    colour: Colour
    hover: str = ""
    role: Literal["mean", "seed", "ring"] = "mean"
    label: str = ""


@dataclass(frozen=True)
class Tile:
    """A cell of a matrix, at the i-th name of each axis. share: 0 to 1, coloured by its side of 1/2; text: its label."""

    x: int
    y: int
    share: float
    text: str
    hover: str = ""


@dataclass(frozen=True)
class Zone:
    """A shaded range of x."""

    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """A dashed line across the plot at x."""

    x: float


Mark = Line | Band | Bar | Dot | Tile | Zone | Rule


@dataclass(frozen=True)
class Figure:
    """A figure of a comparison.

    name: its id and file name. about: a text alternative. legend: (variant's index, its label).
    family, choice: figures of one family are alternatives (metric, x axis), of which the page shows one at a time; choice has a
    word for each. is_printed: whether it is also written as PDF and PNG.
    """

    name: str
    title: str
    caption: str
    about: str
    x: FigureAxis
    y: FigureAxis
    marks: tuple[Mark, ...]
    legend: tuple[tuple[int, str], ...] = ()
    family: str = ""
    choice: tuple[str, ...] = ()
    is_printed: bool = field(default=True)

    @property
    def has_seeds(self) -> bool:
        """Whether it has lines of single runs, which the page shows on demand."""
        return any(isinstance(mark, Line) and mark.role == "seed" for mark in self.marks)

    @property
    def is_matrix(self) -> bool:
        """Whether both axes have names."""
        return bool(self.x.names and self.y.names)


def with_room(low: float, high: float) -> tuple[float, float]:
    """A range with some margin around its data."""
    space = (high - low) * 0.05 if high > low else 0.05 * abs(high) or 0.02
    return low - space, high + space


def framed(lines: Sequence[float], bands: Sequence[float]) -> tuple[float, float]:
    """Axis limits that show all lines, and bands only as far as one range of the lines beyond them on each side."""
    lines, bands = ([value for value in values if math.isfinite(value)] for values in (lines, bands))
    low, high = min(lines or bands), max(lines or bands)
    reach = high - low or math.inf
    return with_room(max(min([low, *bands]), low - reach), min(max([high, *bands]), high + reach))


def cut_note(bands: Sequence[float], axis: FigureAxis) -> str:
    """A sentence for bands that the frame cuts; "" if they are fully visible."""
    seen = [value for value in bands if math.isfinite(value)]
    if not seen or (axis.low <= min(seen) and max(seen) <= axis.high):
        return ""
    return f" Bands reach from {min(seen):.3g} to {max(seen):.3g}; the frame cuts them."


def broadened(low: float, high: float) -> tuple[float, float]:
    """A range that is never of zero width; 0 to 1 for non-finite data."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    if high - low < 1e-12 * max(1.0, abs(high)):
        space = max(abs(high) * 0.05, 0.05)
        return low - space, high + space
    return low, high


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """About `count` round numbers from low to high; integers if `whole`."""
    span = high - low
    if not span > 0:
        return [low]
    step = 10 ** math.floor(math.log10(span / max(count, 1)))
    step *= next((factor for factor in (1, 2, 5, 10) if span / (step * factor) <= count), 10)
    step = max(step, 1) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [value * step for value in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick's label: as many decimals as the step needs, thousands and millions abbreviated."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size and step >= size / 100:
            return f"{value / size:g}{unit}"
    if value != 0 and step < 1e-4:
        return f"{value:.1e}"
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 2
    return f"{value:.{min(digits, 6)}f}"
