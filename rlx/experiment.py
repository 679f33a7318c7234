"""From a composed config to the objects of a run. The only place that instantiates config nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlx.algorithm.base import Algorithm, Need, require_whole
from rlx.config.classes import with_run_loss
from rlx.data.stores import TokenStore
from rlx.errors import ConfigError, DataError, RlxError
from rlx.loss.preference.base import PreferenceLoss
from rlx.optimizer.schedule import Schedule
from rlx.policy.base import Policy
from rlx.rollout.sampler import Sampler
from rlx.task.base import Task

_OF_TEMPLATE = 64  # tokens that a tokenizer or a chat template may add; where it adds more, sampling says so


@dataclass(frozen=True)
class Experiment:
    """What a config describes, before anything has moved."""

    task: Task
    algorithm: Algorithm[Any]
    policy: Policy
    sampler: Sampler
    schedule: Schedule
    make_optimizer: Callable[..., torch.optim.Optimizer]


def assemble(cfg: DictConfig) -> Experiment:
    """Instantiate every node, cheap ones first: whatever does not fit is said before a model is loaded.

    Raises ConfigError where a value is refused or the task does not offer what the algorithm needs.
    """
    task: Task = make(cfg.task, key="task")
    algorithm = algorithm_of(cfg)
    require_match(algorithm, task)
    for offered, load in (("pairs", task.pairs), ("rewards", task.prompts)):
        if offered in task.offers:
            load()  # a bad file is said before a model is loaded
    require_scores(algorithm, task)
    parts = {
        "schedule": make(cfg.scheduler, key="scheduler"),
        "sampler": make(cfg.rollout, key="rollout"),
        "make_optimizer": make(cfg.optimizer, key="optimizer"),
    }
    device = torch_device(cfg.device)
    policy: Policy = make(cfg.policy, key="policy")
    policy.pair_tokenizer.store = token_store(cfg.cache_dir)
    require_pairs(algorithm, task, policy)
    if cfg.activation_checkpointing:
        policy.checkpoint_activations()
    if Need.VALUES in algorithm.active_needs:
        policy.add_value_head()
    if Need.REWARDS in algorithm.needs:
        require_room(task, policy)
    return Experiment(task=task, algorithm=algorithm, policy=policy.to(device), **parts)


def algorithm_of(cfg: DictConfig) -> Algorithm[Any]:
    """The run's algorithm. It is handed the run's loss where it declares one."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    made: Algorithm[Any] = make(OmegaConf.create(with_run_loss(config)), key="algorithm")  # type: ignore[arg-type]
    return made


def make(node: Any, *, key: str) -> Any:
    """The object that a node describes. An RlxError raised on the way comes through as it is."""
    try:
        return instantiate(node, _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, RlxError):
            raise cause from None
        if isinstance(cause, (TypeError, ValueError)):
            raise ConfigError(f"{key}: {node._target_} refuses these values: {cause}") from error
        raise cause or error from None


def require_match(algorithm: Algorithm[Any], task: Task) -> None:
    """Refuse an algorithm that is not whole, or whose needs the task does not offer."""
    require_whole(algorithm)
    name = type(algorithm).__name__
    missing = {need.value for need in algorithm.active_needs & {Need.PAIRS, Need.REWARDS}} - task.offers
    if missing:
        raise ConfigError(
            f"algorithm {name} needs {' and '.join(sorted(missing))}, "
            f"but task {task.name} offers only {', '.join(sorted(task.offers))}; choose a task that offers both "
            "(task=arithmetic does), or another algorithm (rlx --help says what each needs)"
        )
    if "labels" in task.offers:
        for loss in _preference_losses(algorithm):
            if "label" not in loss.requires:
                raise ConfigError(
                    f"task {task.name} has single completions with a label, and {type(loss).__name__} compares the two of a "
                    "pair; take a loss that reads labels (loss=kto, loss=kto_pair), or pairs (task=preference_file)"
                )


def require_scores(algorithm: Algorithm[Any], task: Task) -> None:
    """Refuse a loss that reads scores where pairs of the task have none; else the first step would find it."""
    losses = [loss for loss in _preference_losses(algorithm) if "scores" in loss.requires]
    reading = [f"{type(loss).__name__} reads {loss.names_of('scores')}" for loss in losses]
    pairs = task.pairs() if reading and "pairs" in task.offers else ()
    lacking = sum(pair.scores is None for pair in pairs)
    if lacking:
        raise ConfigError(
            f"loss {reading[0]}, how good the two completions of a pair are, and {lacking} of {len(pairs)} pairs of task "
            f"{task.name} have no scores; name their columns with task.chosen_score_key and task.rejected_score_key "
            "(task=preference_file), or take another loss"
        )


def _preference_losses(owner: Any) -> Iterator[PreferenceLoss]:
    """Every preference loss that learns from the task's pairs, those of terms of weight 0 and of a mixture's parts too."""
    if isinstance(owner, Algorithm) and Need.PAIRS not in owner.active_needs:
        return  # it samples its own
    if isinstance(owner, PreferenceLoss):
        yield owner
    if isinstance(owner, Mapping):
        children = list(owner.values())
    else:
        children = [getattr(owner, item.name) for item in fields(owner)] if is_dataclass(owner) else []
    for child in children:
        yield from _preference_losses(child)


def require_pairs(algorithm: Algorithm[Any], task: Task, policy: Policy) -> None:
    """Refuse pairs of which none is left once they are tokens, where they are learned from or the score is measured on them."""
    if Need.PAIRS in algorithm.active_needs:
        policy.pair_tokenizer(task.pairs()).require_some(f"pairs to learn from of task {task.name}")
    if task.score == "pair_accuracy":
        policy.pair_tokenizer(task.held_out_pairs()).require_some(f"pairs held out of task {task.name}")


def require_room(task: Task, policy: Policy) -> None:
    """Refuse a prompt that leaves no position for a completion; else it would be found in the middle of a run."""
    if policy.max_length is None:
        return
    for prompt in (*task.prompts(), *task.held_out_prompts()):
        text = prompt.text if isinstance(prompt.text, str) else " ".join(str(message) for message in prompt.text)
        if len(text.encode()) + _OF_TEMPLATE < policy.max_length:
            continue  # a token is a byte at least
        length = len(policy.encode_prompt(prompt.text, prompt.tools))
        if length >= policy.max_length:
            shown = text if len(text) <= 80 else f"{text[:77]}..."
            raise DataError(
                f"the prompt {shown!r} of task {task.name} has {length} tokens and {policy.name} reads at most "
                f"{policy.max_length}: there is no room for a completion; drop it, cut its beginning with "
                "policy.max_prompt_length, or choose a policy with a longer context"
            )


def token_store(cache_dir: str | None) -> TokenStore:
    """Where the tokens of a task's pairs are kept for later runs."""
    return TokenStore(None if cache_dir is None else Path(cache_dir).expanduser() / "tokens")


def torch_device(name: str) -> torch.device:
    """auto is cuda where there is one, else cpu."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}: torch knows no such device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: torch sees no GPU here; use device=cpu, or install a CUDA build of torch")
    return device
