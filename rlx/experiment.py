"""Creates the objects of a run from its composed config. No other module instantiates config nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rlx.algorithm.base import Algorithm, AlgorithmType, Need, require_complete
from rlx.config.targets import with_run_loss
from rlx.data.pair_store import PairStore
from rlx.data.stores import TokenStore
from rlx.errors import ConfigError, DataError, RlxError
from rlx.garbage import search_as_usual
from rlx.loss.policy_gradient.base import PolicyGradientFormula, PolicyGradientLoss
from rlx.loss.preference.base import PreferenceLoss
from rlx.optimizer.schedule import Schedule
from rlx.policy.base import Policy
from rlx.policy.reader import Reader
from rlx.rollout.sampler import Sampler
from rlx.task.base import OF_PAIRS, Task

MOST_THREADS = 256
_OF_TEMPLATE = 64  # tokens that a tokenizer or a chat template may add; if it adds more, sampling raises the error


@dataclass(frozen=True)
class Experiment:
    """The objects that a config describes, as they are before the first step."""

    task: Task
    algorithm: Algorithm[Any]
    policy: Policy
    sampler: Sampler
    schedule: Schedule
    make_optimizer: Callable[..., torch.optim.Optimizer]


def assemble(cfg: DictConfig) -> Experiment:
    """Instantiate every node, cheap ones first, so that most errors are raised before a model is loaded.

    Raises ConfigError for an invalid value, or if the task lacks what the algorithm needs; DataError for bad data.
    """
    task: Task = make(cfg.task, key="task")
    task.keep_in(pair_store(cfg.cache_dir))
    algorithm = algorithm_of(cfg)
    require_match(algorithm, task)
    for offered, load in ((task.has_pairs, task.pairs), ("rewards" in task.offers, task.prompts)):
        if offered:
            load()  # read the file now, so that an error in it is raised before the model is loaded
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
    policy.to(device).compute_in(cfg.precision)
    policy.multiply_by(cfg.matmul)
    if policy.is_coarse:
        policy.notes += sequence_ratio_notes(algorithm)
    if Need.REWARDS in algorithm.needs:
        require_room(task, policy)
    search_as_usual()
    return Experiment(task=task, algorithm=algorithm, policy=policy, **parts)


def algorithm_of(cfg: DictConfig) -> Algorithm[Any]:
    """The run's algorithm, with the run's loss if it declares a field `loss`."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    made: Algorithm[Any] = make(OmegaConf.create(with_run_loss(config)), key="algorithm")  # type: ignore[arg-type]
    return made


def make(node: Any, *, key: str) -> Any:
    """The object that a node describes. An RlxError raised by its constructor is passed on unchanged."""
    try:
        return instantiate(node, _convert_="object")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, RlxError):
            raise cause from None
        if isinstance(cause, (TypeError, ValueError)):
            raise ConfigError(f"{key}: {node._target_} refuses these values: {cause}") from error
        raise cause or error from None


# Policy loaders whose tokenizer can be read without loading weights.
_READERS = {
    "rlx.policy.pretrained.load_pretrained": "rlx.policy.pretrained.read_pretrained",
    "rlx.policy.pretrained.load_smollm2": "rlx.policy.pretrained.read_smollm2",
}


def make_reader(node: DictConfig) -> Reader:
    """The text reader (tokenizer side) of the policy that a node describes, without weights; for other loaders, the policy."""
    target = _READERS.get(node._target_, node._target_)
    reader: Reader = make(OmegaConf.merge(node, {"_target_": target}), key="policy")
    return reader


_IMITATE = (
    "; a hybrid that imitates demonstrations in the place of comparing pairs has algorithm@algorithm.dpo=sft, on "
    "task=rewarded_demonstrations"
)


def require_match(algorithm: Algorithm[Any], task: Task) -> None:
    """Raise ConfigError if the algorithm is incomplete, or the task does not provide what it needs."""
    require_complete(algorithm)
    name = type(algorithm).__name__
    needed = {need.value for need in algorithm.active_needs & {Need.PAIRS, Need.DEMONSTRATIONS, Need.REWARDS}}
    missing = needed - task.offers
    if task.has_pairs:
        missing.discard("demonstrations")
    if missing == {"pairs"} and "demonstrations" in task.offers:
        raise ConfigError(
            f"algorithm {name} needs pairs, and task {task.name} has demonstrations, which have no worse completion: take "
            + (
                "a file of pairs (task=rewarded_preferences)" + _IMITATE
                if "rewards" in needed
                else "algorithm=sft, or a file of pairs (task=preference_file)"
            )
            + (
                "; if it reads only the chosen side, declare Need.DEMONSTRATIONS"
                if algorithm.kind is AlgorithmType.SUPERVISED
                else ""
            )
        )
    if missing and needed == {"demonstrations", "rewards"}:
        raise ConfigError(
            f"algorithm {name} needs demonstrations and rewards, but task {task.name} offers only "
            f"{', '.join(sorted(task.offers))}; task=rewarded_demonstrations reads both out of a file: conversations, or prompts "
            "with a completion, and beside them an answer that rewards compare with"
        )
    if missing == {"demonstrations"}:
        raise ConfigError(
            f"algorithm {name} needs demonstrations, and task {task.name} offers only {', '.join(sorted(task.offers))}; "
            "task=demonstration_file reads them out of conversations, or prompts with a completion"
        )
    if missing:
        them = "both" if len(needed) > 1 else "them"
        raise ConfigError(
            f"algorithm {name} needs {' and '.join(sorted(missing))}, "
            f"but task {task.name} offers only {', '.join(sorted(task.offers))}; choose a task that offers {them} "
            "(task=arithmetic, or task=rewarded_preferences with a file), or another algorithm (rlx --help says what each needs)"
            + (_IMITATE if needed == {"pairs", "rewards"} and "demonstrations" in task.offers else "")
        )
    if "labels" in task.offers:
        for loss in _preference_losses(algorithm):
            if "label" not in loss.requires:
                raise ConfigError(
                    f"task {task.name} has single completions with a label, and {type(loss).__name__} compares the two of a "
                    "pair; take a loss that reads labels (loss=kto, loss=kto_pair), or pairs (task=preference_file)"
                )


def require_scores(algorithm: Algorithm[Any], task: Task) -> None:
    """Raise ConfigError if a loss reads scores but the task's pairs have none; otherwise the first step would fail."""
    losses = [loss for loss in _preference_losses(algorithm) if "scores" in loss.requires]
    reading = [f"{type(loss).__name__} reads {loss.names_of('scores')}" for loss in losses]
    pairs = task.pairs() if reading and task.has_pairs else ()
    lacking = sum(pair.scores is None for pair in pairs)
    if lacking:
        raise ConfigError(
            f"loss {reading[0]}, how good the two completions of a pair are, and {lacking} of {len(pairs)} pairs of task "
            f"{task.name} have no scores; name their columns with task.chosen_score_key and task.rejected_score_key "
            "(task=preference_file), or take another loss"
        )


def _preference_losses(owner: Any) -> Iterator[PreferenceLoss]:
    """Every preference loss that reads the task's pairs, including those of a mixture's terms, even terms of weight 0."""
    if isinstance(owner, Algorithm) and not owner.reads_pairs:
        return  # it makes pairs from its own samples
    if isinstance(owner, PreferenceLoss):
        yield owner
    for child in parts_of(owner):
        yield from _preference_losses(child)


def _policy_gradient_losses(owner: Any) -> Iterator[PolicyGradientLoss]:
    """Every policy-gradient loss, including those of a mixture's terms."""
    if isinstance(owner, PolicyGradientLoss):
        yield owner
    for child in parts_of(owner):
        yield from _policy_gradient_losses(child)


def parts_of(owner: Any) -> list[Any]:
    """The values of a mapping, or of a dataclass's fields."""
    if isinstance(owner, Mapping):
        return list(owner.values())
    return [getattr(owner, item.name) for item in fields(owner)] if is_dataclass(owner) else []


def sequence_ratio_notes(algorithm: Any) -> list[str]:
    """Warnings about losses that read the importance ratio of a whole completion while the model computes in 16 bits."""
    of_completion = {"mean_log_ratio", "summed_log_ratio"}
    sensitive = [type(loss).__name__ for loss in _policy_gradient_losses(algorithm) if of_completion.intersection(loss.reads)]
    return [
        f"loss {name} reads the importance ratio of a whole completion, and in bfloat16 sampling and training disagree by "
        "hundredths of a nat a token (rlx guide models): limits below that clip noise; widen loss.clip_low and loss.clip_high, "
        "or train with precision=float32"
        for name in dict.fromkeys(sensitive)
    ]


_CORRECTIONS = {"ratio", "log_ratio", "mean_log_ratio", "summed_log_ratio", "behaviour_logprobs", "sampling_logprobs"}


def uncorrected_losses(algorithm: Any) -> list[str]:
    """Names of the policy-gradient losses that read neither an importance ratio nor the samplers' log-probabilities."""
    formulas = [loss for loss in _policy_gradient_losses(algorithm) if isinstance(loss, PolicyGradientFormula)]
    names = [
        type(loss).__name__
        for loss in formulas
        if not _CORRECTIONS.intersection(loss.reads) and "proximal_logprobs" not in loss.requires
    ]
    return list(dict.fromkeys(names))


def require_pairs(algorithm: Algorithm[Any], task: Task, policy: Policy) -> None:
    """Raise DataError if no training pair, or no pair that the score reads, is left after tokenisation."""
    if algorithm.reads_pairs:
        policy.pair_tokenizer(task.pairs()).require_some(f"pairs to learn from of task {task.name}")
    if task.score in OF_PAIRS:
        policy.pair_tokenizer(task.held_out_pairs()).require_some(f"pairs held out of task {task.name}")


def require_room(task: Task, policy: Policy) -> None:
    """Raise DataError, before the run starts, for a prompt that leaves no position for a completion."""
    if policy.max_length is None:
        return
    for prompt in (*task.prompts(), *task.held_out_prompts()):
        text = prompt.text if isinstance(prompt.text, str) else " ".join(str(message) for message in prompt.text)
        if len(text.encode()) + _OF_TEMPLATE < policy.max_length:
            continue  # a token stands for at least one byte
        length = len(policy.encode_prompt(prompt.text, prompt.tools))
        if length >= policy.max_length:
            shown = text if len(text) <= 80 else f"{text[:77]}..."
            raise DataError(
                f"the prompt {shown!r} of task {task.name} has {length} tokens and {policy.name} reads at most "
                f"{policy.max_length}: there is no room for a completion; drop it, cut its beginning with "
                "policy.max_prompt_length, or choose a policy with a longer context"
            )


def token_store(cache_dir: str | None) -> TokenStore:
    """The cache of the tokenised pairs of a task, shared with later runs."""
    return TokenStore(None if cache_dir is None else Path(cache_dir).expanduser() / "tokens")


def pair_store(cache_dir: str | None) -> PairStore:
    """The cache of the pairs read from files, shared with later runs."""
    return PairStore(None if cache_dir is None else Path(cache_dir).expanduser() / "rows")


def device_name(device: torch.device) -> str:
    """The name of the hardware: `cpu`, or the kind and model name of the accelerator."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def torch_device(name: str) -> torch.device:
    """The torch device of a name; auto is cuda if torch sees a GPU, else cpu. Raises ConfigError if there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device={name}: torch knows no such device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: torch sees no GPU here; use device=cpu, or install a CUDA build of torch")
    try:
        torch.ones(1, device=device).sum().item()
    except Exception as error:  # each torch backend raises its own exception type
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"device={name} cannot compute here: {said}; use auto, cpu, cuda or cuda:N") from error
    return device


def set_threads(threads: int | None) -> None:
    """Set the number of torch's CPU threads; None keeps torch's choice. Raises ConfigError above MOST_THREADS."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and threads > most:  # torch would abort without a message
        raise ConfigError(f"threads={threads} is more than {most}; there are {os.cpu_count()} CPUs, and null lets torch decide")
    if threads is not None:
        torch.set_num_threads(threads)
