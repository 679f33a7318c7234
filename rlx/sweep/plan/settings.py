"""The typed settings of a sweep, `sweep.*`. Values and comments are in conf/sweep only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from omegaconf import DictConfig, open_dict

from rlx.config.check import check_keys, plain_config
from rlx.errors import ConfigError
from rlx.fields import count, shown, within


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that every kind of sweep has."""

    method: Literal["grid"] | str
    name: str | None
    dry_run: bool
    new: bool
    zip: list[str]
    seeds: int | None = count(optional=True)
    workers: Literal["auto"] | int = within(at_least=0, whole=True, also=("auto",))
    ranks_per_job: int = count(at_least=1)
    timeout: float | None = within(at_least=0, optional=True)
    retries: int = count(at_least=0)
    on_failure: Literal["continue", "stop"]
    reuse: bool
    grace: float = within(at_least=0)
    compare: bool


@dataclass(frozen=True, kw_only=True)
class RandomSettings(Settings):
    """The settings of a random search."""

    trials: int = count()
    sampler_seed: int = count(at_least=0)


@dataclass(frozen=True, kw_only=True)
class SearchSettings(RandomSettings):
    """The settings of a search with Optuna."""

    sampler: Literal["grid", "random", "qmc", "tpe", "gp", "cmaes", "nsga2"]
    startup_trials: int = count(at_least=0)
    objectives: list[str]
    pruner: Literal["none", "median", "halving", "hyperband"]
    seed_pruner: Literal["none", "wilcoxon"]
    max_seconds: float | None = within(at_least=0, optional=True)
    max_tokens: float | None = within(at_least=0, optional=True)
    confirm: int = count(at_least=0)
    plots: bool


KINDS: dict[str, type[Settings]] = {"grid": Settings, "random": RandomSettings, "optuna": SearchSettings}


def pop_settings(cfg: DictConfig) -> None:
    """Remove the node `sweep` from a run's config, which it is not part of; a wrong value is refused first."""
    with open_dict(cfg):
        node = cfg.pop("sweep", None)
    if node is not None:
        settings_of(plain_config(node, below="sweep") if isinstance(node, DictConfig) else {"method": node})


def settings_of(node: Mapping[str, Any]) -> Settings:
    """The settings in the plain node `sweep` of a config; unknown keys and wrong types or values are refused."""
    method = node.get("method")
    if method not in KINDS:
        raise ConfigError(f"sweep.method={shown(method)}: it is one of {', '.join(KINDS)}; choose it with sweep=NAME")
    kind = KINDS[str(method)]
    check_keys(node, kind, "sweep.", [f"sweep.{item.name}" for item in fields(kind)], owner=f"sweep={method}")
    name = node["name"]
    if name is not None and (not name or "/" in name or name.startswith(".") or name == "latest"):
        raise ConfigError(f"sweep.name={name}: it is the name of a directory, without / and not beginning with a dot")
    return kind(**node)
