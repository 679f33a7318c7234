"""The plan of a sweep: every job with its name, its config composed and checked before the first job runs."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from rlx.comparison.grouping import short_names
from rlx.config.check import check_config, plain_config
from rlx.config.compose import CompositionOfJobError
from rlx.config.sources import take_out_unread_losses
from rlx.errors import ConfigError
from rlx.record.files import follow_latest
from rlx.record.provenance import CACHES, config_hash, without
from rlx.record.provenance import variant as variant_of
from rlx.record.sources import Source, sources
from rlx.sweep.plan.settings import RandomSettings, Settings
from rlx.sweep.plan.space import Dimension, Space, dimension_of, random_variants

_LONGEST_NAME = 48
_SHORTEST_PART = 8
_LONGEST_NUMBER = 6
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")


@dataclass(frozen=True)
class PlannedJob:
    """One run of a sweep: a variant with a seed. overrides: all of them; differs: those that distinguish its variant."""

    name: str
    variant: str
    differs: tuple[str, ...]
    overrides: tuple[str, ...]
    composed: ComposedJob

    @property
    def seed(self) -> int:
        """The seed of this job."""
        return self.composed.seed


@dataclass(frozen=True)
class SweepPlan:
    """All jobs of a sweep. repeated: how many were given more than once and are run once."""

    jobs: tuple[PlannedJob, ...]
    repeated: int = 0

    @property
    def digest(self) -> str:
        """A hash of all jobs, which the same command reproduces."""
        return plan_digest(job.composed.identity for job in self.jobs)


def plan_digest(parts: Iterable[str]) -> str:
    """A short hash of texts in their order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def plan_of(variants: Sequence[Sequence[str]], space: Space, composer: Composer) -> SweepPlan:
    """The jobs of the given variants (each a list of overrides) with every seed."""
    jobs: dict[str, PlannedJob] = {}
    count = 0
    for differs in variants:
        for seed in space.seeds:
            job = job_of(differs, seed, space, composer)
            jobs.setdefault(job.composed.identity, job)
            count += 1
    return SweepPlan(tuple(jobs.values()), repeated=count - len(jobs))


def job_of(differs: Sequence[str], seed: int, space: Space, composer: Composer) -> PlannedJob:
    """One job, composed and checked. Raises ConfigError for a policy.path that may point to another run before the sweep ends."""
    overrides = (*space.fixed, *differs, f"seed={seed}")
    composed = composer.compose(overrides)
    path = Path(str((composed.cfg.get("policy") or {}).get("path"))).expanduser()
    if (run := follow_latest(path)) != path:
        raise ConfigError(f"policy.path={path} may name another run before the sweep is over; name the run: policy.path={run}")
    return PlannedJob(
        name=name_of([*differs, f"seed={seed}"], composed.identity),
        variant=variant_of(overrides, composed.algorithm),
        differs=tuple(differs),
        overrides=overrides,
        composed=composed,
    )


def plan_sweep(space: Space, composer: Composer, settings: Settings) -> SweepPlan:
    """The plan of a grid or a random search, with every job composed and checked."""
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
    """Compose and check a job at each end of each dimension, so that no trial fails because of the command line."""
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
    """The name of a job, such as `dpo_weight-0.25_seed-3_1a2b3c4d`: its differences and a hash; readable, short, safe in any
    shell.

    If it is too long, texts are cut, then keys are dropped from the end. Numbers are never cut; the last key, the seed, stays.
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
    """Overrides as parts of a file name, with long numbers rounded to four digits."""
    pairs = [override.lstrip("+~").partition("=") for override in differs]
    leaves = short_names([key for key, _, _ in pairs])
    parts = [f"{leaves[key]}-{_shortened(value)}" if value else leaves[key] for key, _, value in pairs]
    cleaned = [re.sub(r"[^A-Za-z0-9._-]+", "-", part).strip(".-_") for part in parts]
    return list(filter(None, cleaned))


def _shortened(value: str) -> str:
    value = value.strip("'\"").rpartition("/")[2]
    is_long = len(value) > _LONGEST_NUMBER and not value.isdigit() and _NUMBER.fullmatch(value)
    return f"{float(value):.4g}" if is_long else value


# The config of every job, composed and checked before the first one runs.
#
# Hydra composes once for each choice of groups. Values are then set in copies, by the function that Hydra uses for it. A copy
# costs a fiftieth of a composition, and a sweep of a thousand jobs has only a few choices.


NOT_A_JOB = ("sweep", "resume", "rerun")  # the requests of a command line that are not part of a job's config


@dataclass(frozen=True)
class ComposedJob:
    """One job's checked config. identity: a hash of everything except its cache; config_hash: of what can change its numbers."""

    cfg: DictConfig
    algorithm: str
    config_hash: str
    identity: str
    sources: tuple[Source, ...]
    num_steps: int
    threads: int | None
    seed: int


@dataclass
class Composer:
    """Makes configs from overrides. allowed: classes that may be named. inspect: refuses a config by raising."""

    loader: ConfigLoader
    master: DictConfig
    allowed: Callable[[], Iterable[str]]
    inspect: Callable[[Mapping[str, Any]], None] | None = None
    _bases: dict[tuple[str, ...], tuple[DictConfig, Mapping[str, Any]]] = field(default_factory=dict)
    _choosing: dict[str, bool] = field(default_factory=dict)
    _allowed: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._parser = OverridesParser.create(config_loader=self.loader)

    def parse(self, overrides: Sequence[str]) -> list[Override]:
        """Parse overrides with Hydra."""
        return list(self._parser.parse_overrides(list(overrides)))

    def compose(self, overrides: Sequence[str]) -> ComposedJob:
        """The checked config of one job. Raises ConfigError, or Hydra's error about an override."""
        cfg, choices = self._composed(overrides)
        if self._allowed is None:  # for the whole command line, because it is slow to determine
            self._allowed = tuple(self.allowed())
        check_config(cfg, allowed=self._allowed)
        container = plain_config(cfg)
        if self.inspect is not None:
            self.inspect(container)
        files = tuple(sources(container))
        said = without(container, CACHES)  # which an environment variable may have moved
        return ComposedJob(
            cfg=cfg,
            algorithm=str(choices["algorithm"]),
            config_hash=config_hash(container, files),
            identity=config_hash({"whole": json.dumps(said, sort_keys=True, default=str)}, files),
            sources=files,
            num_steps=container["num_steps"],
            threads=container["threads"],
            seed=container["seed"],
        )

    def _composed(self, overrides: Sequence[str]) -> tuple[DictConfig, Mapping[str, Any]]:
        parsed = self.parse(overrides)
        choosing = tuple(str(item.input_line) for item in parsed if self._chooses(item))
        if choosing not in self._bases:
            try:
                base = self.loader.load_sweep_config(self.master, list(choosing))
            except HydraException as error:
                raise CompositionOfJobError(overrides) from error
            made = dict(base.hydra.runtime.choices)
            self._require_same_launcher(made, overrides)
            with open_dict(base):
                base.pop("hydra")
                base.pop("sweep")
            self._bases[choosing] = base, made
            self._allowed = None  # a user's class that this choice serves is allowed from now on
        base, choices = self._bases[choosing]
        cfg: DictConfig = copy.deepcopy(base)
        try:
            ConfigLoaderImpl._apply_overrides_to_config([item for item in parsed if not self._chooses(item)], cfg)
        except HydraException as error:
            raise CompositionOfJobError(overrides) from error
        take_out_unread_losses(cfg, choices, overrides)
        return cfg, choices

    def _require_same_launcher(self, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Refuse a job that chooses another launcher than the sweep, because one launcher starts all jobs."""
        own, whole = choices["hydra/launcher"], self.master.hydra.runtime.choices["hydra/launcher"]
        if own != whole:
            raise ConfigError(
                f"the job {' '.join(overrides)} chooses hydra/launcher={own} (an experiment in it does), but the sweep runs its "
                f"jobs with {whole}; give hydra/launcher={own} on the command line, or take it out of the experiment"
            )

    def _chooses(self, override: Override) -> bool:
        """Whether the override may change the defaults list; True in doubt."""
        return override.package is not None or "/" in override.key_or_group or self.is_group(override.key_or_group)

    def is_group(self, key: str) -> bool:
        """Whether a key chooses a file of a group."""
        if key not in self._choosing:
            self._choosing[key] = "." not in key and bool(self.loader.get_group_options(key))
        return self._choosing[key]


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides of a command line that are part of a job."""
    kept = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        root = key.partition("@")[0].partition(".")[0]
        if root in NOT_A_JOB[1:] and "=" in override:
            raise ConfigError(f"{override} is one run or sweep that goes on, so it cannot be given with a sweep of its own")
        if root not in NOT_A_JOB:
            kept.append(override)
    return kept
