"""What a command line varies: axes of values, intervals, and the seeds, which are repetitions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

MOST_JOBS = 10_000  # of one sweep: a larger plan takes minutes to compose and is probably a mistake


@dataclass(frozen=True)
class SweepAxis:
    """Keys that vary together. points: for each place on the axis, one override per key; intervals have no points."""

    keys: tuple[str, ...]
    points: tuple[tuple[str, ...], ...]
    override: Override | None = None


@dataclass(frozen=True)
class Space:
    """The parsed overrides of a sweep. fixed: as typed; seeds: the repetitions of each variant."""

    fixed: tuple[str, ...]
    axes: tuple[SweepAxis, ...]
    seeds: tuple[int, ...]

    @property
    def intervals(self) -> list[str]:
        """Keys whose values are drawn instead of listed."""
        return [axis.keys[0] for axis in self.axes if not axis.points]

    def grid(self) -> Iterator[tuple[str, ...]]:
        """The overrides of every variant, in the order of the command line, the first axis slowest.

        Raises ConfigError for more than MOST_JOBS jobs.
        """
        jobs = math.prod(len(axis.points) for axis in self.axes) * len(self.seeds)
        if jobs > MOST_JOBS:
            raise ConfigError(
                f"this sweep has {jobs:,} jobs, and at most {MOST_JOBS:,} are run; vary fewer keys, or sample the variants by "
                "sweep=random sweep.trials=N"
            )
        for place in itertools.product(*(axis.points for axis in self.axes)):
            yield tuple(itertools.chain.from_iterable(place))


def space_of(overrides: Sequence[Override], *, zipped: Sequence[str] = (), seeds: int | None = None) -> Space:
    """Split the parsed overrides of a sweep into axes; if a key occurs twice, the last override counts."""
    last = {override.get_key_element(): override for override in overrides}
    fixed, axes = [], {}
    for key, override in last.items():
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif key.partition(".")[0] in ("sweep", "resume", "rerun"):
            raise ConfigError(f"{override.input_line}: {key} is not part of a run, so it cannot be varied; give it one value")
        elif override.is_discrete_sweep():
            _require_few(override)
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            axes[key] = SweepAxis((key,), tuple((value,) for value in values), override)
        else:
            axes[key] = SweepAxis((key,), (), override)
    chosen = _seeds(axes.pop("seed", None), last.get("seed"), seeds)
    if seeds is not None or "seed" in last:
        fixed = [text for text in fixed if not text.startswith("seed=")]
    return Space(tuple(fixed), tuple(_zip(axes, zipped)), chosen)


def _require_few(override: Override) -> None:
    """Refuse a range with more values than a sweep may have jobs, before its values are created."""
    swept = override.value()
    if not isinstance(swept, RangeSweep) or swept.start is None or swept.stop is None or not swept.step:
        return
    count = (swept.stop - swept.start) / swept.step
    if not count <= MOST_JOBS:
        raise ConfigError(f"{override.input_line} has {count:,.0f} values, and a sweep has at most {MOST_JOBS:,} jobs")


def _seeds(axis: SweepAxis | None, override: Override | None, count: int | None) -> tuple[int, ...]:
    """The seeds of the axis, or `count` of them from the fixed one on."""
    if axis is None:
        first = 0 if override is None else override.value()
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise ConfigError(f"seed={first}: it must be a whole number, 0 or more")
        if (count or 1) > MOST_JOBS:
            raise ConfigError(f"sweep.seeds={count}: a sweep has at most {MOST_JOBS:,} jobs")
        return tuple(range(first, first + (count or 1)))
    if not axis.points:
        raise ConfigError("seeds are repeats and are not searched; write 'seed=range(0,5)' or sweep.seeds=5")
    texts = [point[0].partition("=")[2] for point in axis.points]
    wrong = [text for text in texts if not text.isdigit()]
    if wrong:
        raise ConfigError(f"seed={wrong[0]}: it must be a whole number, 0 or more")
    if count is not None and count != len(set(texts)):
        raise ConfigError(f"sweep.seeds={count} and seed={','.join(texts)} say different things; give one of them")
    return tuple(dict.fromkeys(map(int, texts)))


def _zip(axes: dict[str, SweepAxis], zipped: Sequence[str]) -> Iterator[SweepAxis]:
    """The axes, with paired ones merged at the place of the first."""
    for key in zipped:
        if key not in axes:
            hint = did_you_mean(nearest(key, axes)) or f"; the keys with several values are {', '.join(axes) or 'none'}"
            raise ConfigError(f"sweep.zip names {key}, which does not have several values on this command line{hint}")
        if not axes[key].points:
            raise ConfigError(f"sweep.zip: {key} is an interval; paired values are listed")
    lengths = {key: len(axes[key].points) for key in zipped}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        raise ConfigError(f"sweep.zip: paired keys need equally many values; {counts}")
    for key, axis in axes.items():
        if key not in zipped:
            yield axis
        elif key == next(name for name in axes if name in zipped):
            names = tuple(name for name in axes if name in zipped)
            rows = zip(*(axes[name].points for name in names), strict=True)
            yield SweepAxis(names, tuple(tuple(itertools.chain.from_iterable(row)) for row in rows))


# The values that a search may choose for one key, or for keys that vary together.

_DIGITS = 6  # significant digits of a drawn number: enough for any hyperparameter, and readable


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


def dimension_of(axis: SweepAxis) -> Dimension:
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
    """The overrides of `trials` variants. The same seed gives the same variants; a larger number begins with the same ones."""
    generator = random.Random(f"rlx sweep {seed}")
    return [tuple(text for dimension in dimensions for text in dimension.draw(generator)) for _ in range(trials)]
