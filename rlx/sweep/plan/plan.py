"""The plan of a sweep: every job by its name, before the first one runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlx.comparison.grouping import short_names
from rlx.errors import ConfigError
from rlx.record.provenance import variant as variant_of
from rlx.sweep.plan.compose import ComposedJob, Composer
from rlx.sweep.plan.settings import RandomSettings, Settings
from rlx.sweep.plan.space import Dimension, Space, dimension_of, random_variants

_LONGEST_NAME = 48
_SHORTEST_PART = 8
_LONGEST_NUMBER = 6
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class PlannedJob:
    """One run of a sweep: a variant with a seed. overrides: all of its own; differs: what tells its variant from the others."""

    name: str
    variant: str
    differs: tuple[str, ...]
    overrides: tuple[str, ...]
    composed: ComposedJob

    @property
    def seed(self) -> int:
        """The seed of this repeat."""
        return self.composed.seed


@dataclass(frozen=True)
class SweepPlan:
    """All jobs of a sweep. repeated: how many were asked for twice and run once."""

    jobs: tuple[PlannedJob, ...]
    repeated: int = 0

    @property
    def digest(self) -> str:
        """What the same command gives again: a hash of all its jobs."""
        return plan_digest(job.composed.identity for job in self.jobs)


def plan_digest(parts: Iterable[str]) -> str:
    """A short hash of texts in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def plan_of(variants: Sequence[Sequence[str]], space: Space, composer: Composer) -> SweepPlan:
    """The jobs of the given variants (the overrides that make each) with every seed."""
    jobs: dict[str, PlannedJob] = {}
    count = 0
    for differs in variants:
        for seed in space.seeds:
            job = job_of(differs, seed, space, composer)
            jobs.setdefault(job.composed.identity, job)
            count += 1
    return SweepPlan(tuple(jobs.values()), repeated=count - len(jobs))


def job_of(differs: Sequence[str], seed: int, space: Space, composer: Composer) -> PlannedJob:
    """One job, composed and checked."""
    overrides = (*space.fixed, *differs, f"seed={seed}")
    composed = composer.compose(overrides)
    return PlannedJob(
        name=name_of([*differs, f"seed={seed}"], composed.identity),
        variant=variant_of(overrides, composed.algorithm),
        differs=tuple(differs),
        overrides=overrides,
        composed=composed,
    )


def plan_sweep(space: Space, composer: Composer, settings: Settings) -> SweepPlan:
    """The plan of a grid or a random search, every job of it composed and checked."""
    if isinstance(settings, RandomSettings):
        dimensions = [dimension_of(axis) for axis in space.axes]
        checked_ends(dimensions, space, composer)
        return plan_of(random_variants(dimensions, trials=settings.trials, seed=settings.sampler_seed), space, composer)
    if space.intervals:
        raise ConfigError(
            f"{space.intervals[0]} is an interval, which a grid cannot list; search it with sweep=random or sweep=optuna"
        )
    return plan_of(list(space.grid()), space, composer)


def checked_ends(dimensions: Sequence[Dimension], space: Space, composer: Composer) -> list[PlannedJob]:
    """A job at each end of each dimension, composed and checked, so that no trial meets an error of the command line."""
    if not dimensions:
        raise ConfigError("there is nothing to search: give a key several values or 'KEY=interval(LOW,HIGH)'")
    first = [dimension.ends()[0] for dimension in dimensions]
    jobs = []
    for place, dimension in enumerate(dimensions):
        for point in dimension.ends():
            differs = [text for texts in [*first[:place], point, *first[place + 1 :]] for text in texts]
            try:
                jobs.append(job_of(differs, space.seeds[0], space, composer))
            except ConfigError as error:
                if dimension.points or dimension.whole or "whole number" not in str(error):
                    raise
                ends = f"{dimension.low:g},{dimension.high:g}"
                raise ConfigError(f"{error}; draw whole numbers with '{dimension.name}=int(interval({ends}))'") from error
    return jobs


def name_of(differs: Sequence[str], identity: str) -> str:
    """`dpo_weight-0.25_seed-3_1a2b3c4d`: what differs, readable, safe in every shell and never long, and a hash.

    Where it is too long, texts are cut, then keys are left out from the end. Numbers are never cut; the last, the seed, stays.
    """
    *variant, seed = readable(differs) or [""]
    left, width = _LONGEST_NAME - len(seed) - 1, _LONGEST_NAME
    while len("_".join(variant)) > left and width > _SHORTEST_PART:
        width -= 1
        variant = [part if _NUMBER.fullmatch(part.partition("-")[2]) else part[:width].rstrip("-_.") for part in variant]
    while len("_".join(variant)) > left and len(variant) > 1:
        variant.pop()
    parts = ["_".join(variant)[: max(0, left)].rstrip("-_."), seed[:_LONGEST_NAME].rstrip("-_."), identity[:8]]
    return "_".join(filter(None, parts))


def readable(differs: Sequence[str]) -> list[str]:
    """Overrides as parts of a file name, long numbers to four digits."""
    pairs = [override.lstrip("+~").partition("=") for override in differs]
    leaves = short_names([key for key, _, _ in pairs])
    parts = [f"{leaves[key]}-{_shortened(value)}" if value else leaves[key] for key, _, value in pairs]
    cleaned = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-_") for part in parts]
    return list(filter(None, cleaned))


def _shortened(value: str) -> str:
    value = value.strip("'\"").rpartition("/")[2]
    is_long = len(value) > _LONGEST_NUMBER and not value.isdigit() and _NUMBER.fullmatch(value)
    return f"{float(value):.4g}" if is_long else value
