"""Chooses the policy to evaluate or sample: a run at one of its checkpoints, a directory of weights, or any policy's config."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rlx.config.check import check_node, plain_config
from rlx.config.compose import compose
from rlx.config.recorded import check_places
from rlx.config.targets import check_targets
from rlx.errors import ConfigError, DataError
from rlx.experiment import make
from rlx.policy.adapter import ADAPTER_CONFIG
from rlx.policy.base import Policy
from rlx.record.files import follow_latest, relative
from rlx.record.run import RunRecord, read_run
from rlx.record.trust import trusted_targets
from rlx.training.checkpoint import TRAINER_JSON, checkpoint_path, checkpoint_steps, load_weights, verified_values

NEWEST = Path("outputs/train/latest")
GROUPS = ("task", "policy", "rollout")
_LOADER = "rlx.policy.pretrained.load_pretrained"
_SETTINGS = ("dtype", "shared_prefix", "chat_template", "max_length", "max_prompt_length", "chat_template_kwargs")


@dataclass(frozen=True)
class PolicyChoice:
    """A policy with the task and the rollout that belong to it.

    nodes: the checked config of task, policy and rollout. start: the config of the run's initial policy, or None if that is this
    policy. record: of the run; weights: directory of the checkpoint; both None for a policy without a run.
    step: of the checkpoint. precision: of matrix products. matmul: the library that computes them, see rlx.policy.products.
    """

    nodes: Mapping[str, Any]
    start: Mapping[str, Any] | None
    record: RunRecord | None
    weights: Path | None
    step: int
    precision: str
    matmul: str

    def load(self, device: torch.device) -> Policy:
        """The policy, with the checkpoint's weights, on a device and in the precision of this choice."""
        policy: Policy = make(OmegaConf.create(dict(self.nodes["policy"])), key="policy")
        if self.weights is not None and (self.weights / TRAINER_JSON).is_file():
            verified_values(self.weights)
        if self.weights is not None and self.nodes["policy"]["_target_"] != _LOADER:
            load_weights(self.weights, policy)
        return self._placed(policy, device)

    def load_start(self, device: torch.device) -> Policy | None:
        """The run's initial policy, on that device and in that precision; None if it is this policy."""
        return None if self.start is None else self._placed(make(OmegaConf.create(dict(self.start)), key="policy"), device)

    def _placed(self, policy: Policy, device: torch.device) -> Policy:
        policy.to(device).compute_in(self.precision)
        policy.multiply_by(self.matmul)
        return policy

    def make(self, group: str) -> Any:
        """The task or the rollout."""
        return make(OmegaConf.create(dict(self.nodes[group])), key=group)


def choose_policy(cfg: DictConfig, *, verb: str, allowed: Iterable[str]) -> PolicyChoice:
    """The policy that a verb's config names. A config read from a record passes the same checks as any other.

    allowed: the names that the command line allows; those that `trusted_targets` finds in the record are allowed too.
    """
    chosen = {group: _chosen(cfg, group) for group in GROUPS}
    record, weights = None, None
    if cfg.run is not None or "_target_" not in chosen["policy"]:
        record, weights = located(NEWEST if cfg.run is None else Path(str(cfg.run)).expanduser(), cfg.checkpoint)
    own = _own_nodes(record, weights)
    if "_target_" in chosen["policy"]:
        weights, own = None, {**own, "policy": chosen["policy"]}
    nodes = {group: chosen[group] if "_target_" in chosen[group] else {**own[group], **chosen[group]} for group in GROUPS}
    start = plain_config(OmegaConf.create(dict(record.config["policy"]))) if record is not None and weights is not None else None
    if record is not None and start is not None:
        start |= {key: chosen["policy"][key] for key in ("unpacked_dir",) if key in chosen["policy"]}
        given = {f"policy.{key}" for key in chosen["policy"]}
        words = ["rlx", verb, relative(record.directory)]
        check_places({"policy": start}, record.directory, lambda places: shlex.join([*words, *places]), given=given)
    nodes = plain_config(OmegaConf.create(nodes))
    trusted = () if record is None else trusted_targets(record)
    for group, node in [*nodes.items(), *([("policy", start)] if start is not None else [])]:
        check_targets({group: node}, [*allowed, *trusted])
        check_node(node, group, [], group=group)
    step = int(weights.name.removeprefix("step_")) if record and weights else 0
    of_run = "float32" if record is None else str(record.config.get("precision", "float32"))
    matmul = "auto" if record is None else str(record.config.get("matmul", "torch"))
    return PolicyChoice(nodes, start, record, weights, step, of_run if cfg.precision is None else cfg.precision, matmul)


def _chosen(cfg: DictConfig, group: str) -> dict[str, Any]:
    """A node chosen on the command line, or the keys added to the run's own."""
    node = cfg[group]
    if node is None:
        return {}
    values = plain_config(node)
    return {str(key): value for key, value in values.items()}


def _own_nodes(record: RunRecord | None, weights: Path | None) -> dict[str, dict[str, Any]]:
    """The nodes of the run, its policy at the checkpoint; without a run the default task and rollout."""
    if record is None:
        default = plain_config(OmegaConf.masked_copy(compose("train"), list(GROUPS)))
        nodes = {group: dict(default[group]) for group in GROUPS}
    else:
        lacking = [group for group in GROUPS if not isinstance(record.config.get(group), Mapping)]
        if lacking:
            raise DataError(f"{record.directory}: its config has no {', '.join(lacking)}; the record was damaged")
        nodes = {group: dict(record.config[group]) for group in GROUPS}
    if weights is not None and str(nodes["policy"].get("_target_", "")).startswith("rlx.policy."):
        kept = {key: nodes["policy"][key] for key in _SETTINGS if key in nodes["policy"]} if record is not None else {}
        name = f"{record.directory.name}/{weights.name}" if record is not None else None
        nodes["policy"] = {"_target_": _LOADER, "path": str(weights), **kept, "name": name}
    return nodes


def located(place: Path, checkpoint: Any) -> tuple[RunRecord | None, Path]:
    """(record, weights) of a run directory or of a checkpoint in it; the record is None for a directory of weights alone."""
    place, named = follow_latest(place).resolve(), place  # `latest` will name another run one day
    if named == NEWEST and not place.exists():
        raise ConfigError("there is no run in outputs/train yet; name a RUN, or choose a policy: policy=tiny")
    if any((place / name).is_file() for name in ("config.json", ADAPTER_CONFIG)) and not (place / "run.json").is_file():
        run = place.parent.parent
        is_inside = place.parent.name == "checkpoint" and (run / "run.json").is_file()
        return read_run(run) if is_inside else None, place
    record = read_run(place)
    return record, checkpoint_path(record.directory, chosen_step(record.directory, checkpoint))


def chosen_step(run: Path, checkpoint: Any) -> int:
    """The step for a value of `checkpoint`: last, best or a number."""
    steps = checkpoint_steps(run)
    if not steps:
        others = [
            place for place in sorted(run.parent.iterdir(), reverse=True) if not place.is_symlink() and checkpoint_steps(place)
        ]
        named = f"; the newest run that has one is {relative(others[0])}" if others else ""
        raise ConfigError(f"{run} has no checkpoint; a run writes one when it ends, and every checkpoint.every steps{named}")
    if checkpoint == "last":
        return steps[-1]
    known = ", ".join(map(str, steps))
    if checkpoint == "best":
        best = best_step(checkpoint_path(run, steps[-1]))
        if best == 0:
            raise ConfigError(
                f"{run} was best before training, with the policy that it began with; checkpoint=last is step {steps[-1]}"
            )
        if best not in steps:
            raise ConfigError(
                f"{run} has no checkpoint of its best step ({best}), only of {known}; checkpoint.keep_best=true keeps it"
            )
        return best
    if isinstance(checkpoint, int) and checkpoint in steps:
        return checkpoint
    raise ConfigError(f"checkpoint={checkpoint}: it is last, best or a step with a checkpoint; {run} has {known}")


def best_step(last: Path) -> int:
    """The step of the best evaluation, as stored in the last checkpoint."""
    try:
        return int(json.loads((last / TRAINER_JSON).read_text())["best_step"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(f"{last / TRAINER_JSON} does not say which step was best: {error}") from error
