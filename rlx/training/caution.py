"""Config values that would ruin a run silently: impossible values raise an error, suspicious ones give a warning at start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from rlx.algorithm.base import Need
from rlx.algorithm.mixture import Mixture
from rlx.errors import ConfigError
from rlx.experiment import Experiment, uncorrected_losses
from rlx.task.base import OF_PAIRS, Task, Text
from rlx.task.rewarded import RewardedTask
from rlx.training.diagnosis import CLIPPED

SHARES = ("accuracy", "pair_accuracy")  # scores between 0 and 1
LOOKED_AT = 256  # pairs and prompts of the task that are inspected
SAMPLED = 4096  # entries of each parameter from which the size of the first step is measured
STILL = 1e-7  # relative to the weights; a smaller update is lost in float32
LARGEST_WEIGHT = 1e9  # largest weight of a reward
USUAL = {"beta": (1e-6, 1e3), "eps": (0.0, 1e-2), "label_smoothing": (0.0, 0.5)}  # usual ranges, in loss and optimizer
MANY_UPDATES, FEW_PROMPTS = 10, 30
LARGEST_KL_WEIGHT = 1e3  # largest usual kl_in_reward, for rewards near 1
ROLES = {"system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "environment", "model"}


def require_possible(cfg: DictConfig, experiment: Experiment) -> None:
    """Raise ConfigError for values that cannot work, such as an unreachable stop_at_score; the message says what to write."""
    task = experiment.task
    low, high = score_bounds(task)
    if cfg.stop_at_score is not None and high is not None and cfg.stop_at_score > high:
        share = f"; it is a share, did you mean {cfg.stop_at_score / 100:g}?" if task.score in SHARES else ""
        raise ConfigError(f"stop_at_score={cfg.stop_at_score:g} is never reached: {task.score} is at most {high:g}{share}")
    if cfg.stop_at_score is not None and low is not None and cfg.stop_at_score <= low:
        raise ConfigError(
            f"stop_at_score={cfg.stop_at_score:g} is reached before training: {task.score} is at least {low:g}; leave it out"
        )
    if isinstance(task, RewardedTask):
        _require_rewards(task)


def _require_rewards(task: RewardedTask) -> None:
    for name, reward in task.all_rewards().items():
        if abs(reward.weight) > LARGEST_WEIGHT:
            raise ConfigError(
                f"task.rewards.{name}.weight={reward.weight:g} dominates everything else; weights are usually near 1"
            )
    _, high = reward_bounds(task)
    if isinstance(task.full_reward, float | int) and high is not None and task.full_reward > high + 1e-6:
        raise ConfigError(f"task.full_reward={task.full_reward:g} is never reached: the rewards add up to at most {high:g}")


def score_bounds(task: Task) -> tuple[float | None, float | None]:
    """The smallest and the largest possible score of a task; None if unknown."""
    if task.score in SHARES:
        return 0.0, 1.0
    if task.score == "log_likelihood":
        return None, 0.0
    return reward_bounds(task) if isinstance(task, RewardedTask) else (None, None)


def reward_bounds(task: RewardedTask) -> tuple[float | None, float | None]:
    """The smallest and the largest possible sum of a task's rewards; None if a reward is unbounded."""
    low = high = 0.0
    for reward in task.all_rewards().values():
        if reward.weight == 0:
            continue
        if reward.bounds is None:
            return None, None
        ends = sorted(reward.weight * bound for bound in reward.bounds)
        low, high = low + ends[0], high + ends[1]
    return low, high


def cautions(cfg: DictConfig, experiment: Experiment) -> list[str]:
    """Warnings about a run's values before it starts, one sentence each."""
    return [
        *_schedule(cfg),
        *_usual(cfg),
        *_draws(experiment),
        *_ahead(experiment),
        *_evaluation(cfg, experiment.task),
        *_task(experiment),
    ]


def _schedule(cfg: DictConfig) -> Iterator[str]:
    warmup = cfg.scheduler.get("warmup_steps", 0)
    if isinstance(warmup, int) and warmup >= cfg.num_steps:
        share = cfg.num_steps / (warmup + 1)
        yield (
            f"scheduler.warmup_steps={warmup} is longer than the run of {cfg.num_steps} steps: the learning rate ends at "
            f"{share:.1%} of optimizer.lr"
        )


def _usual(cfg: DictConfig) -> Iterator[str]:
    for group in ("loss", "optimizer"):
        node = cfg[group]
        for name, (low, high) in USUAL.items():
            value = node.get(name) if isinstance(node, DictConfig) else None
            if isinstance(value, (int, float)) and not low <= value <= high and value != 0:
                yield f"{group}.{name}={value:g} is far from what is usual ({low:g} to {high:g})"


def _draws(experiment: Experiment) -> Iterator[str]:
    task = experiment.task
    for name, value in _numbers(experiment.algorithm):
        leaf = name.rpartition(".")[2]
        if leaf == "updates_per_batch" and value > MANY_UPDATES:
            yield f"algorithm.{name}={value}: this many updates on one draw overfit it; 1 to 4 are usual"
        if leaf == "kl_in_reward" and value > LARGEST_KL_WEIGHT:
            yield f"algorithm.{name}={value:g} dominates the rewards: the policy only learns to stay at the reference"
        rows = len(task.pairs()) if leaf == "pairs_per_step" and task.has_pairs else None
        rows = len(task.prompts()) if leaf == "prompts_per_step" and "rewards" in task.offers else rows
        if rows is not None and value > rows:
            kind = _kind_of_pairs(task) if leaf == "pairs_per_step" else "prompts"
            often = f"each about {value / rows:.0f} times" if value >= 1.5 * rows else "some twice"
            yield f"algorithm.{name}={value} of {rows} {kind}: a step learns from {often}"
    clips = {name: value for name, value in _numbers(experiment.algorithm) if name.endswith(("clip_low", "clip_high"))}
    if clips and not any(clips.values()):
        yield f"{' and '.join(clips)} are 0: after the first update of a draw no token has an effect"


def _kind_of_pairs(task: Task) -> str:
    """The name for the rows of `task.pairs()`."""
    kinds = {"demonstrations": "demonstrations", "labels": "labelled completions"}
    return next((said for offer, said in kinds.items() if offer in task.offers), "pairs")


def _ahead(experiment: Experiment) -> Iterator[str]:
    for name in uncorrected_losses(experiment.algorithm) if experiment.sampler.ahead else ():
        yield (
            f"rollout.ahead=1 samples from the weights of one step before, and loss {name} reads no importance ratio that would "
            "correct for it; loss=clipped does"
        )


def _numbers(owner: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """(dotted name, value) of every number in a tree of dataclasses, except in mixture terms that are never drawn."""
    terms = owner.terms.values() if isinstance(owner, Mixture) else ()
    idle = [term.algorithm for term in terms if not term.is_drawn]
    for item in fields(owner) if is_dataclass(owner) and not isinstance(owner, type) else ():
        value = getattr(owner, item.name) if item.init else None
        children = list(value.items()) if isinstance(value, Mapping) else [("", value)]
        for key, child in children:
            name = ".".join(filter(None, (path, item.name, str(key))))
            if isinstance(child, (int, float)) and not isinstance(child, bool):
                yield name, child
            elif is_dataclass(child) and all(child is not one and getattr(child, "algorithm", None) is not one for one in idle):
                yield from _numbers(child, name)


def _evaluation(cfg: DictConfig, task: Task) -> Iterator[str]:
    by_pairs = task.score in OF_PAIRS
    key = "num_pairs" if by_pairs else "num_prompts"
    there = len(task.held_out_pairs() if by_pairs else task.held_out_prompts())
    used = min(cfg.evaluation[key], there)
    if used < FEW_PROMPTS:
        what = _kind_of_pairs(task) if by_pairs else "prompts"
        error = f": its standard error is up to {0.5 / max(used, 1) ** 0.5:.2f}" if task.score != "log_likelihood" else ""
        advice = next((f"raise task.{name}" for name in ("held_out", "num_held_out") if name in cfg.task), "give it more")
        yield (
            f"the score is measured on {used} held-out {what}{error}; "
            + (f"the task has no more: {advice}" if used == there else f"raise evaluation.{key}")
        )


def _task(experiment: Experiment) -> Iterator[str]:
    task = experiment.task
    noise = getattr(task, "label_noise", 0.0)
    if noise >= 0.5 and experiment.algorithm.reads_pairs:
        words = "nothing" if noise == 0.5 else "the opposite"
        yield f"task.label_noise={noise:g}: the pairs say {words} of which completion is better"
    if getattr(task, "reward_noise", 0.0) == 1 and Need.REWARDS in experiment.algorithm.active_needs:
        yield "task.reward_noise=1: the rewards say nothing about which completion is better"
    if isinstance(task, RewardedTask) and Need.REWARDS in experiment.algorithm.active_needs:
        for name, reward in task.all_rewards().items():
            if reward.weight < 0 and reward.bounds is not None and reward.bounds[0] >= 0:
                yield f"task.rewards.{name}.weight={reward.weight:g}: a completion is worth less the better {name} finds it"
        yield from _long_answers(experiment, task)
        yield from _short_prompts(experiment, task)
    texts = list(islice(_texts(task), 3 * LOOKED_AT))
    roles = [str(message.get("role")) for text in texts if not isinstance(text, str) for message in text]
    odd = sorted({role for role in roles if role not in ROLES})
    if odd:
        number = sum(role in odd for role in roles)
        yield f"{number} of {len(roles)} inspected messages have the role {', '.join(odd)}, which no chat model knows"


def _texts(task: Task) -> Iterator[Text]:
    for pair in islice(task.pairs() if task.has_pairs else (), LOOKED_AT):
        yield from (pair.prompt, pair.chosen, pair.rejected)
    for prompt in islice(task.prompts() if "rewards" in task.offers else (), LOOKED_AT):
        yield prompt.text


def _short_prompts(experiment: Experiment, task: RewardedTask) -> Iterator[str]:
    """A warning about a limit that cuts the beginning of most prompts; for pairs the opening table shows this."""
    policy = experiment.policy
    most = policy.text.max_prompt_length
    if most is None:
        return
    whole = replace(policy.text, max_prompt_length=None)
    lengths = [len(whole.encode_prompt(prompt.text, prompt.tools)) for prompt in islice(task.prompts(), LOOKED_AT)]
    cut = sum(length > most for length in lengths)
    if 2 * cut > len(lengths):
        yield f"policy.max_prompt_length={most}: {cut} of {len(lengths)} inspected prompts lose their beginning"


def _long_answers(experiment: Experiment, task: RewardedTask) -> Iterator[str]:
    """A warning about answers longer than the longest completion, if completions are compared with them."""
    policy = experiment.policy
    most = getattr(experiment.sampler, "max_new_tokens", None) or task.max_new_tokens
    answers = [str(prompt.columns["answer"]) for prompt in islice(task.prompts(), LOOKED_AT) if "answer" in prompt.columns]
    exact = [name for name, reward in task.all_rewards().items() if "exact" in type(reward).__name__.lower()]
    if not answers or not exact or policy.tokenizer is None:
        return
    encoded: Sequence[Sequence[int]] = policy.tokenizer(answers, add_special_tokens=False)["input_ids"]
    long = sum(len(tokens) + 1 > most for tokens in encoded)  # plus the end-of-sequence token
    if long:
        yield f"{long} of {len(answers)} answers have more tokens than a completion may have ({most}): raise task.max_new_tokens"


@dataclass
class Movement:
    """Measures how far the first step moves the weights, on the first entries of each parameter."""

    parameters: Sequence[Tensor]
    warmup_steps: int = 0
    _before: list[Tensor] = field(default_factory=list)

    def begin(self) -> None:
        """Remember the weights before a step."""
        self._before = [self._sample(parameter) for parameter in self.parameters]

    def said(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """(name, sentence) for each problem of the step; metrics: of the step."""
        if not self._before:
            return []
        moved = sum(
            float((self._sample(now) - then).square().sum()) for now, then in zip(self.parameters, self._before, strict=True)
        )
        size = sum(float(then.square().sum()) for then in self._before)
        self._before = []
        share = (moved / size) ** 0.5 if size else 0.0
        norm, clipped = metrics.get("train/grad_norm"), metrics.get("train/grad_norm_clipped")
        found = []
        if norm is not None and clipped is not None and norm > CLIPPED * max(clipped, 1e-300):
            words = (
                f"the gradient of the first step has the norm {norm:.2g} and is clipped to {clipped:.2g}: look at the scale of "
                "the loss (loss.beta, task.rewards), or raise algorithm.max_grad_norm"
            )
            found.append(("clipped", words))
        if norm != 0.0 and share * (self.warmup_steps + 1) < STILL:
            rate = metrics.get("train/learning_rate")
            why = "the learning rate is 0" if rate == 0 else "look at optimizer.lr, optimizer.eps and algorithm.max_grad_norm"
            found.append(
                ("unmoved", f"the first step moved the weights by {share:.1g} of their size, which is negligible: {why}")
            )
        return found

    @staticmethod
    def _sample(parameter: Tensor) -> Tensor:
        own = parameter.to_local() if hasattr(parameter, "to_local") else parameter  # this rank's shard of sharded weights
        return own.detach().reshape(-1)[:SAMPLED].to("cpu", torch.float64, copy=True)
