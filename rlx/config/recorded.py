"""The config of a run that goes on, or is run again: its own, read back from its record as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf

from rlx.config.classes import is_allowed, locate, targets_of
from rlx.config.compose import Composed
from rlx.config.groups import RUN_GROUPS
from rlx.errors import ConfigError

_MAY_CHANGE = {
    "resume": ("resume", "allow_changed", "logger", "checkpoint", "micro_batch", "activation_checkpointing", "num_steps"),
    "rerun": ("rerun", "logger", "checkpoint", "micro_batch", "activation_checkpointing", "output_dir", "cache_dir"),
}
# Keys that older records lack, with the values that their runs had.
_BEFORE: dict[str, Any] = {"activation_checkpointing": False, "export": {"merge": False}}


class Recorded(Protocol):
    """What is asked of the record of a run."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def algorithm(self) -> str: ...
    @property
    def directory(self) -> Path: ...


def asked_run(cfg: DictConfig) -> Path:
    """The directory of the run that `resume` or `rerun` names."""
    verb = "resume" if cfg.resume is not None else "rerun"
    if cfg.resume is not None and cfg.rerun is not None:
        raise ConfigError("resume goes on with a run and rerun starts it again; give one of them")
    if not str(cfg[verb]).strip():
        raise ConfigError(f"{verb}= names no run; give its directory: {verb}=outputs/train/latest")
    run = Path(cfg[verb]).expanduser()
    beside = [Path(cfg.output_dir).expanduser() / "train" / run, Path(cfg.output_dir).expanduser() / run]
    if not run.exists() and (there := next((place for place in beside if (place / "run.json").is_file()), None)):
        raise ConfigError(f"{verb}={cfg[verb]}: there is no such directory; did you mean {verb}={there}?")
    return run


def continued(composed: Composed, record: Recorded) -> Composed:
    """The recorded config with what may be overridden taken from the command line's, and the directory to write in."""
    cfg = composed.config
    verb = "resume" if cfg.resume is not None else "rerun"
    if composed.is_multirun:
        raise ConfigError(f"{verb}={cfg[verb]} is one run and cannot be swept; leave out -m")
    _check_recorded_targets(record.config, composed.allowed, verb)
    recorded = OmegaConf.create(
        {**_BEFORE, **record.config, "export": {**_BEFORE["export"], **(record.config.get("export") or {})}}
    )
    classes = {target for _, target in targets_of(dict(record.config))}
    for override in composed.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        root = key.partition(".")[0].partition("@")[0]
        if value in classes and root in record.config:
            continue  # names a class of the user's own again, so that it may be called
        if root not in _MAY_CHANGE[verb]:
            raise ConfigError(
                f"{verb}={cfg[verb]} takes the run's own config, so {override} cannot be given with it; "
                f"what may be given is {', '.join(_MAY_CHANGE[verb][1:])}"
            )
        place = root if root == "logger" else key
        OmegaConf.update(recorded, place, OmegaConf.select(cfg, place), merge=False)
    directory = composed.directory
    if verb == "resume":
        _check_horizon(recorded, record.config)
        if directory is not None:
            raise ConfigError("a run that is resumed goes on in its own directory; leave out hydra.run.dir")
        directory = record.directory
    recorded.resume, recorded.rerun, recorded.allow_changed = cfg.resume, cfg.rerun, cfg.allow_changed
    choices = {**composed.choices, "algorithm": record.algorithm}
    return replace(composed, config=recorded, choices=choices, directory=directory)


def _check_recorded_targets(config: object, allowed: Iterable[str], verb: str) -> None:
    """The allow list, with a message that says how to name classes of one's own again."""
    patterns = tuple(allowed)
    foreign = [(path, target) for path, target in targets_of(config) if not is_allowed(str(target), patterns)]
    if foreign:
        again = [f"{path}={target}" if path in RUN_GROUPS else f"++{path}._target_={target}" for path, target in foreign]
        names = ", ".join(dict.fromkeys(str(target) for _, target in foreign))
        raise ConfigError(
            f"the record names {names}, not of rlx's own; if you trust it, name it again: rlx train {verb}=RUN {' '.join(again)}"
        )


def _check_horizon(recorded: DictConfig, before: object) -> None:
    """A run can be made longer only if no step before depended on its length."""
    steps = before["num_steps"]  # type: ignore[index]
    if recorded.num_steps != steps and getattr(locate(recorded.scheduler._target_, "scheduler"), "needs_horizon", True):
        raise ConfigError(
            f"num_steps={recorded.num_steps}: the scheduler's learning rates were planned for {steps} steps, so the run cannot "
            "be made longer; only a schedule without a horizon (scheduler=constant) can"
        )
