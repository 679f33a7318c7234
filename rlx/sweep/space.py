"""What a command line asks to vary: axes of values, intervals, and the seeds, which are repeats."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hydra.core.override_parser.types import Override

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError


@dataclass(frozen=True)
class Axis:
    """Keys that vary together. points: for each place on the axis, one override a key; intervals have no points."""

    keys: tuple[str, ...]
    points: tuple[tuple[str, ...], ...]
    override: Override | None = None


@dataclass(frozen=True)
class Space:
    """The overrides of a sweep taken apart. fixed: as typed; seeds: the repeats of each variant."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]

    @property
    def intervals(self) -> list[str]:
        """Keys whose values are not listed but drawn."""
        return [axis.keys[0] for axis in self.axes if not axis.points]

    def grid(self) -> Iterator[tuple[str, ...]]:
        """The overrides of every variant, in the order of the command line, the first axis slowest."""
        for place in itertools.product(*(axis.points for axis in self.axes)):
            yield tuple(itertools.chain.from_iterable(place))


def space_of(overrides: Sequence[Override], *, zipped: Sequence[str] = (), seeds: int | None = None) -> Space:
    """Take the parsed overrides of a sweep apart; of two for one key the last counts."""
    last = {override.get_key_element(): override for override in overrides}
    fixed, axes = [], {}
    for key, override in last.items():
        if not override.is_sweep_override():
            fixed.append(str(override.input_line))
        elif key.partition(".")[0] in ("sweep", "resume", "rerun"):
            raise ConfigError(f"{override.input_line}: {key} is no part of a run, so it cannot be varied; give it one value")
        elif override.is_discrete_sweep():
            values = [f"{key}={value}" for value in override.sweep_string_iterator()]
            axes[key] = Axis((key,), tuple((value,) for value in values), override)
        else:
            axes[key] = Axis((key,), (), override)
    chosen = _seeds(axes.pop("seed", None), last.get("seed"), seeds)
    if seeds is not None or "seed" in last:
        fixed = [text for text in fixed if not text.startswith("seed=")]
    return Space(tuple(fixed), tuple(_zip(axes, zipped)), chosen)


def _seeds(axis: Axis | None, override: Override | None, count: int | None) -> tuple[int, ...]:
    """The seeds of the axis, or `count` of them from the fixed one on."""
    if axis is None:
        first = 0 if override is None else override.value()
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise ConfigError(f"seed={first}: it must be a whole number, 0 or more")
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


def _zip(axes: dict[str, Axis], zipped: Sequence[str]) -> Iterator[Axis]:
    """The axes with those that are paired made one, where the first of them stood."""
    for key in zipped:
        if key not in axes:
            hint = did_you_mean(nearest(key, axes)) or f"; the keys with several values are {', '.join(axes) or 'none'}"
            raise ConfigError(f"sweep.zip names {key}, which has not several values on this command line{hint}")
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
            yield Axis(names, tuple(tuple(itertools.chain.from_iterable(row)) for row in rows))
