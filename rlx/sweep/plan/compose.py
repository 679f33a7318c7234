"""The config of every job, composed and checked before the first one runs.

Hydra composes once for each choice of groups; values are put into copies, by the function with which Hydra does it. A copy costs
a fiftieth of a composition, and a sweep of a thousand jobs has a handful of choices.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict

from rlx.config.check import check_config, plain_config
from rlx.config.compose import CompositionOfJobError
from rlx.config.sources import take_out_unread_losses
from rlx.errors import ConfigError
from rlx.record.provenance import CACHES, config_hash, without
from rlx.record.sources import Source, sources

NOT_A_JOB = ("sweep", "resume", "rerun")  # the requests of a command line that are no part of a job's config


@dataclass(frozen=True)
class ComposedJob:
    """One job's config, checked. identity: of all that it says but its cache; config_hash: of what may change its numbers."""

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
    """Makes configs of overrides. allowed: classes that may be named. inspect: refuses a config by raising."""

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
        """Overrides as Hydra reads them."""
        return list(self._parser.parse_overrides(list(overrides)))

    def compose(self, overrides: Sequence[str]) -> ComposedJob:
        """The checked config of one job. Raises ConfigError, or what Hydra says against an override."""
        cfg, choices = self._composed(overrides)
        if self._allowed is None:  # of the whole command line, and slow to find out
            self._allowed = tuple(self.allowed())
        check_config(cfg, allowed=self._allowed)
        container = plain_config(cfg)
        if self.inspect is not None:
            self.inspect(container)
        files = tuple(sources(container))
        said = without(container, CACHES)  # which the environment may have moved
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
            self._allowed = None  # a class of the user's that this choice serves is allowed from here on
        base, choices = self._bases[choosing]
        cfg: DictConfig = copy.deepcopy(base)
        try:
            ConfigLoaderImpl._apply_overrides_to_config([item for item in parsed if not self._chooses(item)], cfg)
        except HydraException as error:
            raise CompositionOfJobError(overrides) from error
        take_out_unread_losses(cfg, choices, overrides)
        return cfg, choices

    def _require_same_launcher(self, choices: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Refuse a job that chooses another launcher than the sweep: the jobs of a sweep have one, which starts them all."""
        own, whole = choices["hydra/launcher"], self.master.hydra.runtime.choices["hydra/launcher"]
        if own != whole:
            raise ConfigError(
                f"the job {' '.join(overrides)} chooses hydra/launcher={own} (an experiment in it does), but the sweep runs its "
                f"jobs with {whole}; give hydra/launcher={own} on the command line, or take it out of the experiment"
            )

    def _chooses(self, override: Override) -> bool:
        """Whether the override may change the defaults list; in doubt it may."""
        return override.package is not None or "/" in override.key_or_group or self.is_group(override.key_or_group)

    def is_group(self, key: str) -> bool:
        """Whether a key chooses a file of a group."""
        if key not in self._choosing:
            self._choosing[key] = "." not in key and bool(self.loader.get_group_options(key))
        return self._choosing[key]


def job_overrides(overrides: Sequence[str]) -> list[str]:
    """Those of a command line's overrides that are part of a job."""
    kept = []
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        root = key.partition("@")[0].partition(".")[0]
        if root in NOT_A_JOB[1:] and "=" in override:
            raise ConfigError(f"{override} is one run or sweep that goes on, so it cannot be given with a sweep of its own")
        if root not in NOT_A_JOB:
            kept.append(override)
    return kept
