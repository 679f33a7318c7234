"""What a search may choose for one key, or for keys that vary together."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, RangeSweep

from rlx.errors import ConfigError
from rlx.sweep.space import Axis

_DIGITS = 6  # of a drawn number: enough for any hyperparameter, and readable


@dataclass(frozen=True)
class Dimension:
    """An interval from low to high, on a log scale or in steps, or choices. points: the overrides of each choice."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    points: tuple[tuple[str, ...], ...] = ()

    def overrides(self, value: float | int) -> tuple[str, ...]:
        """What the command line of a value says. value: a number of the interval, or the index of a choice."""
        if self.points:
            return self.points[int(value)]
        return (f"{self.name}={int(value) if self.whole else float(f'{value:.{_DIGITS}g}')!r}",)

    def ends(self) -> list[tuple[str, ...]]:
        """The overrides that are checked before a search: of every choice, or of both ends."""
        return list(self.points) if self.points else [self.overrides(self.low), self.overrides(self.high)]

    def draw(self, generator: random.Random) -> tuple[str, ...]:
        """The overrides of a random value."""
        if self.points:
            return self.overrides(generator.randrange(len(self.points)))
        if self.step is not None:
            return self.overrides(self.low + self.step * generator.randrange(round((self.high - self.low) / self.step) + 1))
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        return self.overrides(min(self.high, max(self.low, round(value) if self.whole else value)))


def dimension_of(axis: Axis) -> Dimension:
    """The dimension of an axis of the command line: interval(...), range(...), or values."""
    name = ",".join(axis.keys)
    value = axis.override.value() if axis.override is not None else None
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        assert low is not None
        assert high is not None
        log = "log" in value.tags
        if not low < high:
            raise ConfigError(f"{name}=interval({low:g},{high:g}): the first end must be smaller than the second")
        if log and low <= 0:
            raise ConfigError(f"{name}: an interval on a log scale begins above 0, not at {low:g}")
        return Dimension(name, low, high, log=log, whole=isinstance(low, int) and isinstance(high, int), step=None)
    if isinstance(value, RangeSweep) and value.start is not None and not value.shuffle:
        numbers = [float(point[0].partition("=")[2]) for point in axis.points]
        whole = all(number == int(number) for number in numbers) and isinstance(value.step, int)
        if len(numbers) > 1 and numbers[0] < numbers[-1]:
            return Dimension(name, numbers[0], numbers[-1], step=float(value.step), whole=whole)
    return Dimension(name, points=axis.points)


def random_variants(dimensions: Sequence[Dimension], *, trials: int, seed: int) -> list[tuple[str, ...]]:
    """The overrides of `trials` variants; the same seed gives the same, and more of them begin with the same."""
    generator = random.Random(f"rlx sweep {seed}")
    return [tuple(text for dimension in dimensions for text in dimension.draw(generator)) for _ in range(trials)]
