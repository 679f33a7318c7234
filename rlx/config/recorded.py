"""The config of a run that is resumed or rerun: its own, read from its record as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlx.config.check import plain_config
from rlx.config.compose import Composed, read_yaml
from rlx.config.schema import conf_dir
from rlx.config.targets import check_targets, locate, targets_of
from rlx.errors import ConfigError

_RANKS = ("ranks", "parallel")
_MAY_CHANGE = {
    "resume": (
        "resume",
        "allow_changed",
        "logger",
        "checkpoint",
        "micro_batch",
        "activation_checkpointing",
        *_RANKS,
        "num_steps",
    ),
    "rerun": ("rerun", "logger", "checkpoint", "micro_batch", "activation_checkpointing", *_RANKS),
}
# Where a run writes besides its record. An unexpected place from a record must be given again on the command line.
_PLACES = ("output_dir", "cache_dir", "export.path", "policy.unpacked_dir")
# Keys that older records lack, with the values that those runs had.
_BEFORE: dict[str, Any] = {
    "activation_checkpointing": False,
    "precision": "float32",
    "matmul": "torch",
    "ranks": 1,
    "parallel": {"mode": "replicated", "timeout": 600},
    "parameter_groups": {"decay_norms_and_biases": True, "embedding_rate": 1.0, "value_head_rate": 1.0},
    "plan": False,
    "export": {"merge": False},
}


def recorded_config(cfg: DictConfig) -> dict[str, Any]:
    """The resolved config as plain values, without `resume`, `rerun` and `allow_changed`, which describe a request, not a run."""
    return {**plain_config(cfg), "resume": None, "rerun": None, "allow_changed": []}


def asked_run(cfg: DictConfig) -> Path:
    """The directory of the run that `resume` or `rerun` names."""
    verb = "resume" if cfg.resume is not None else "rerun"
    if cfg.resume is not None and cfg.rerun is not None:
        raise ConfigError("resume continues a run and rerun repeats it; give one of them")
    if not str(cfg[verb]).strip():
        raise ConfigError(f"{verb}= names no run; give its directory: {verb}=outputs/train/latest")
    run = Path(cfg[verb]).expanduser()
    beside = [Path(cfg.output_dir).expanduser() / "train" / run, Path(cfg.output_dir).expanduser() / run]
    if not run.exists() and (there := next((place for place in beside if (place / "run.json").is_file()), None)):
        raise ConfigError(f"{verb}={cfg[verb]}: there is no such directory; did you mean {verb}={there}?")
    return run


def continued(composed: Composed, before: Mapping[str, Any], run: Path, *, algorithm: str, command: str) -> Composed:
    """The recorded config, with the keys that may be overridden taken from the command line, and the directory to write in.

    before, run, algorithm: of the record: its config, directory and algorithm. command: the complete command, for a message about
    places to write in that must be given again.
    """
    cfg = composed.config
    verb = "resume" if cfg.resume is not None else "rerun"
    if composed.is_multirun:
        raise ConfigError(f"{verb}={cfg[verb]} is one run and cannot be swept; leave out -m")
    check_targets(before, composed.allowed)
    given = {override.lstrip("+~").partition("=")[0] for override in composed.overrides}
    check_places(before, run, lambda _: command, given=given)
    recorded = OmegaConf.create({**_BEFORE, **before, "export": {**_BEFORE["export"], **(before.get("export") or {})}})
    classes = {target for _, target in targets_of(dict(before))}
    for override in composed.overrides:
        key, _, value = override.lstrip("+~").partition("=")
        root = key.partition(".")[0].partition("@")[0]
        if value in classes and root in before:
            continue  # names the user's own class again, so that it may be called
        if root not in _MAY_CHANGE[verb] and key not in _PLACES:
            raise ConfigError(
                f"{verb}={cfg[verb]} takes the run's own config, so {override} cannot be given with it; "
                f"what may be given is {', '.join((*_MAY_CHANGE[verb][1:], *_PLACES))}"
            )
        is_choice = root in ("logger", "parallel") and (key == root or OmegaConf.select(recorded, key.rpartition(".")[0]) is None)
        place = root if is_choice else key
        OmegaConf.update(recorded, place, OmegaConf.select(cfg, place), merge=False)
    directory = composed.directory
    if verb == "resume":
        _check_horizon(recorded, before)
        if directory is not None:
            raise ConfigError("a resumed run stays in its own directory; leave out hydra.run.dir")
        directory = run
    recorded.resume, recorded.rerun, recorded.allow_changed = cfg.resume, cfg.rerun, cfg.allow_changed
    choices = {**composed.choices, "algorithm": algorithm}
    return replace(composed, config=recorded, choices=choices, directory=directory)


def check_places(
    config: Mapping[str, Any], directory: Path, command: Callable[[list[str]], str], *, given: Set[str] = frozenset()
) -> None:
    """Refuse a recorded config that names a place to write in which is neither expected nor given on the command line.

    directory: of the record. command: the complete command for the overrides of all such places. given: the keys that the
    command line sets. Raises ConfigError.
    """
    places = places_to_give(config, directory)
    if lacking := [text for key, text in places if not _is_given(key, given)]:
        raise ConfigError(
            f"the record says to write to {', '.join(lacking)}, neither in its own directory nor a default place; if that is "
            f"meant, give it again: {command([text for _, text in places])}"
        )


def places_to_give(config: Mapping[str, Any], directory: Path) -> list[tuple[str, str]]:
    """(key, override) of every place to write in that a recorded config names, except the default ones and those in `directory`.

    directory: of the record. The directory that contains it, DIR of DIR/train/RUN or DIR/sweep/SWEEP, is also expected as an
    output_dir.
    """
    run = Path(directory).resolve()
    found = []
    for key, value in _places(plain_config(OmegaConf.create(dict(config)))):
        if value is None:
            continue
        below = run if key.endswith(".directory") else Path()  # what relative paths are relative to
        place = _resolved(value, below)
        if not (place.is_relative_to(run) or place in [_resolved(item, below) for item in _default_places(key, run)]):
            found.append((key, f"logger=[{key.split('.')[1]}]" if key.startswith("logger.") else f"{key}={value}"))
    return found


def _is_given(key: str, given: Set[str]) -> bool:
    is_logger = key.startswith("logger.")  # loggers given now replace those of the record
    return key in given or (is_logger and "logger" in given)


def _places(config: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """(key, path) of every place that a run with this config writes to."""
    for key in _PLACES:
        above, _, leaf = key.rpartition(".")
        node = config.get(above) if above else config
        yield key, node.get(leaf) if isinstance(node, Mapping) else None
    loggers = config.get("logger")
    for name, node in loggers.items() if isinstance(loggers, Mapping) else ():
        for leaf in ("directory", "tracking_uri") if isinstance(node, Mapping) else ():
            yield f"logger.{name}.{leaf}", node.get(leaf)


def _resolved(place: object, below: Path) -> Path:
    """A path without links, `~` and `sqlite:///`. The address of a server becomes a path that exists nowhere."""
    text = str(place).removeprefix("sqlite:///").removeprefix("file://")
    return Path(f"/{text.replace('..', '')}") if "://" in text else (below / Path(text).expanduser()).resolve()


def _default_places(key: str, run: Path) -> list[str]:
    """The expected values of a key of `_places`, from conf/ and the environment."""
    if key.endswith(".tracking_uri"):
        return [f"sqlite:///{place}/mlflow.db" for place in _default_places("output_dir", run)]
    if key == "policy.unpacked_dir":
        return [f"{place}/models" for place in _default_places("cache_dir", run)]
    if key not in ("output_dir", "cache_dir"):
        return []
    here = [str(run.parent.parent)] if key == "output_dir" else []
    return [*here, str(read_yaml(conf_dir() / "train.yaml")[key])]


def _check_horizon(recorded: DictConfig, before: Mapping[str, Any]) -> None:
    """Refuse to lengthen a run if earlier steps depended on its length."""
    steps = before["num_steps"]
    if recorded.num_steps != steps and getattr(locate(recorded.scheduler._target_, "scheduler"), "needs_horizon", True):
        raise ConfigError(
            f"num_steps={recorded.num_steps}: the scheduler's learning rates were planned for {steps} steps, so the run cannot "
            "be made longer; only a schedule without a horizon (scheduler=constant) can"
        )
