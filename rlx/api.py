"""The Python interface: the implementation of `rlx.load` and `rlx.train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from rlx.cli.failure import composed_line
from rlx.config.check import check_node, paths_of, plain_config, unknown_key
from rlx.config.compose import CommandLine
from rlx.config.groups import GROUPS, RUN_GROUPS
from rlx.config.suggest import did_you_mean, nearest
from rlx.config.targets import check_targets, loaders_in, targets_of, with_run_loss
from rlx.errors import ConfigError

if TYPE_CHECKING:
    from rlx.record.run import AlgorithmResult


StepCallback = Callable[[int, Mapping[str, float]], object]


def load(group: str, name: str, overrides: Mapping[str, Any]) -> Any:
    """Instantiate one node of a group. See `rlx.load`."""
    if group not in RUN_GROUPS:
        raise ConfigError(f"there is no group {group}{did_you_mean(nearest(group, RUN_GROUPS))}")
    choice = f"logger=[{name}]" if GROUPS[group].several else f"{group}={name}"
    composed = composed_line(CommandLine(overrides=[choice]))
    cfg = composed.config
    path = f"{group}.{next(iter(cfg[group]))}" if GROUPS[group].several else group
    if group == "algorithm":
        cfg.algorithm = with_run_loss(plain_config(OmegaConf.masked_copy(cfg, ["algorithm", "loss"])))
    for key, value in overrides.items():
        _update(cfg, f"{path}.{key}", value, owner=name)
    node = plain_config(cfg)
    for part in path.split("."):
        node = node[part]
    given = [name for key, value in overrides.items() for name in loaders_in(f"{group}.{key}={value}")]
    spelled = [target for value in overrides.values() for _, target in targets_of(value) if isinstance(target, str)]
    check_targets(node, [*composed.allowed, *given, *spelled])
    check_node(node, path, [], group=group)

    from rlx.experiment import make

    return make(OmegaConf.create(node), key=path)


def _update(cfg: DictConfig, key: str, value: Any, *, owner: str) -> None:
    """Set an existing key; a node (a config, or a dict with a _target_) may replace another node."""
    above, _, leaf = key.rpartition(".")
    if leaf not in list(OmegaConf.select(cfg, above) or {}):  # `in` on a config is false for keys whose value is ???
        top = key.partition(".")[0]
        raise unknown_key(key, owner, paths_of(OmegaConf.to_container(OmegaConf.select(cfg, top), resolve=True), top))
    try:
        with open_dict(cfg):
            OmegaConf.update(cfg, key, value, merge=False)
    except OmegaConfBaseException as error:
        if is_dataclass(value):
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise ConfigError(
                f"{key} is given an object of {type(value).__name__}, and a config holds names and numbers: give "
                f"{{'_target_': '{kind}', ...}}, or set the object afterwards with dataclasses.replace"
            ) from error
        raise ConfigError(f"{key}={value!r}: {str(error).splitlines()[0]}") from error


def train(overrides: Sequence[str], *, callbacks: Sequence[StepCallback], quiet: bool) -> AlgorithmResult:
    """Make one run, as `rlx train OVERRIDES` does, and return its result. See `rlx.train`."""
    from rlx.cli.verb.train import SCHEMA, narrow, trained
    from rlx.report.terminal import TrainView

    if isinstance(overrides, str) or callable(callbacks):
        raise ConfigError(
            'overrides must be a list of strings, and callbacks a list: rlx.train(["num_steps=3"], callbacks=[print])'
        )
    line = CommandLine(argv=["train", *overrides], verb="train", overrides=list(overrides))
    composed = narrow(composed_line(line))
    composed.check(SCHEMA)
    if (callbacks or quiet) and composed.config.ranks > 1:
        raise ConfigError(f"callbacks and quiet need one process, but ranks={composed.config.ranks} uses several; leave out one")
    return trained(composed, TrainView(callbacks=callbacks, quiet=quiet))
