"""rlx from Python: what the functions at the top of the package do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlx.cli.failure import explained
from rlx.cli.line import CommandLine, allowed_targets, quote_override
from rlx.config.check import check_config, check_node, paths_of, plain, unknown_key
from rlx.config.classes import GROUP_BASE, check_targets, with_run_loss
from rlx.config.compose import compose
from rlx.config.sources import use_working_directory
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rlx.comparison.comparison import Comparison
    from rlx.record.run import AlgorithmResult


@contextmanager
def _composing(line: CommandLine) -> Iterator[None]:
    """Say what is wrong with an override as the command line does."""
    try:
        yield
    except Exception as error:
        known = explained(error, line)
        if known is None or known is error:
            raise
        raise known from None


def load(group: str, name: str, overrides: Mapping[str, Any]) -> Any:
    """One node of a group, instantiated. See `rlx.load`."""
    if group not in GROUP_BASE:
        raise ConfigError(f"there is no group {group}{did_you_mean(nearest(group, GROUP_BASE))}")
    use_working_directory()
    choice = f"logger=[{name}]" if group == "logger" else f"{group}={name}"
    line = CommandLine(overrides=[choice])
    with _composing(line):
        cfg = compose("train", [choice], with_hydra=True)
    path = f"logger.{next(iter(cfg.logger))}" if group == "logger" else group
    if group == "algorithm":
        cfg.algorithm = with_run_loss(plain(OmegaConf.masked_copy(cfg, ["algorithm", "loss"])))
    for key, value in overrides.items():
        _update(cfg, f"{path}.{key}", value, owner=name)
    node = plain(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    for part in path.split("."):
        node = node[part]
    check_targets(node, allowed_targets(line))
    check_node(node, path, [], group=group)

    from rlx.experiment import make

    return make(OmegaConf.create(node), key=path)


def _update(cfg: DictConfig, key: str, value: Any, *, owner: str) -> None:
    """Set a key that is there; a node (a config or a dict with a _target_) may replace another."""
    above, _, leaf = key.rpartition(".")
    if leaf not in list(OmegaConf.select(cfg, above) or {}):  # `in` of a config denies keys whose value is ???
        paths = list(
            paths_of(OmegaConf.to_container(OmegaConf.select(cfg, key.partition(".")[0]), resolve=True), key.partition(".")[0])
        )
        raise unknown_key(key, owner, paths)
    try:
        with open_dict(cfg):
            OmegaConf.update(cfg, key, value, merge=False)
    except OmegaConfBaseException as error:
        if is_dataclass(value):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ConfigError(
                f"{key} is given an object of {type(value).__name__}, and a config holds names and numbers: give "
                f"{{'_target_': '{kind}', ...}}, or put the object in with dataclasses.replace afterwards"
            ) from error
        raise ConfigError(f"{key}={value!r}: {str(error).splitlines()[0]}") from error


def train(overrides: Sequence[str] = ()) -> AlgorithmResult:
    """One run, as `rlx train OVERRIDES` makes it; returns its result."""
    from rlx.config.recorded import asked_run, continued
    from rlx.record.run import read_run

    use_working_directory()
    line = CommandLine(argv=["train", *overrides], verb="train", overrides=list(overrides))
    with _composing(line):
        cfg = compose("train", [quote_override(override) for override in overrides], with_hydra=True)
    choices = dict(cfg.hydra.runtime.choices)
    tasks = list(cfg.hydra.overrides.task)
    with open_dict(cfg):
        del cfg["hydra"], cfg["sweep"]
    algorithm, directory = str(choices["algorithm"]), None
    allowed = allowed_targets(line)
    if cfg.resume is not None or cfg.rerun is not None:
        cfg, algorithm, directory = continued(cfg, tasks, read_run(asked_run(cfg)), allowed=allowed, directory=None)
    check_config(cfg, allowed=allowed)

    from rlx.training.run import train as run

    return run(cfg, algorithm=algorithm, command=["rlx", *line.argv], overrides=tasks, directory=directory)


def compare(runs: Any, **choices: Any) -> Comparison:
    """The comparison of run records, or of the runs at or below paths. choices: keys of conf/compare.yaml. Imports no torch."""
    from rlx.comparison.comparison import compare as call

    return call(runs, **choices)
