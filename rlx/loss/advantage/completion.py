"""Advantages of whole completions: their reward less a baseline, on one scale or another.

Dimensions: P prompts, G completions of a prompt (the group).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import Ranged, class_of, evaluated, reads_of, with_options, within
from rlx.loss.base import require_shape

OPTIONAL = ("lengths", "greedy_rewards")
Epsilon = Annotated[float, within(above=0, advice="it keeps groups of equal rewards finite; 1e-6 is usual")]


@dataclass(frozen=True, kw_only=True)
class Advantage(Ranged, ABC):
    """An advantage of completions: `advantage(rewards, lengths=..., greedy_rewards=...) -> [P, G]`.

    requires: names of the further inputs that it reads: lengths [P, G] of the completions, greedy_rewards [P].
    smallest_group: fewer completions of a prompt than this make no sense and are refused.
    """

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[frozenset[str]] = frozenset()
    smallest_group: ClassVar[int] = 2

    def __call__(self, rewards: Tensor, *, lengths: Tensor | None = None, greedy_rewards: Tensor | None = None) -> Tensor:
        """[P, G] without a gradient."""
        own = type(self).__name__
        if rewards.ndim != 2:
            raise ShapeError(f"{own} takes rewards [P, G], a row a prompt, but got {tuple(rewards.shape)}")
        if rewards.shape[1] < self.smallest_group:
            raise ShapeError(
                f"{own} compares the completions of a prompt, but got rewards {tuple(rewards.shape)}: "
                f"{rewards.shape[1]} a prompt; set group_size to {self.smallest_group} or more"
            )
        given = {"lengths": lengths, "greedy_rewards": greedy_rewards}
        missing = sorted(name for name in self.requires if given[name] is None)
        if missing:
            raise ShapeError(f"{own} needs {', '.join(missing)} beside the rewards; pass it by that name")
        needed = {name: value.detach() for name, value in given.items() if name in self.requires and value is not None}
        found = self.of_rewards(rewards.detach(), **needed)
        return require_shape(found, rewards.shape, by=own, of="an advantage for each reward")

    @abstractmethod
    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] the formula."""


@dataclass(frozen=True, kw_only=True)
class AdvantageFormula(Advantage):
    """An advantage of completions that is one function; `completion_advantage` makes its subclasses."""

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] the formula of what it reads."""
        found: Tensor = evaluated(self, {"rewards": rewards, **needed}.__getitem__)
        return found


@with_options
def completion_advantage(function: Callable[..., Tensor], *, smallest_group: int = 2) -> type[Advantage]:
    """The class of an advantage of completions out of its formula, which returns [P, G].

    Example: @completion_advantage
             def my_advantage(rewards, *, scale=1.0):
                 return scale * (rewards - rewards.mean(dim=1, keepdim=True))

    It may read rewards [P, G], lengths [P, G] in tokens, and greedy_rewards [P], of the greedy completion of each prompt.
    smallest_group: fewer completions of a prompt make no sense.
    Raises ConfigError if a parameter has another name.
    """
    names = ("rewards", *OPTIONAL)
    requires = frozenset(OPTIONAL).intersection(reads_of(function, names))
    return class_of(function, AdvantageFormula, names, smallest_group=smallest_group, requires=requires)


@completion_advantage
def group_centered(rewards: Tensor) -> Tensor:
    """r - mean of its group.

    Rewards minus their group's mean (Dr. GRPO): no division, so easy and hard prompts keep their scale.
    Paper: Liu et al. 2025, Understanding R1-zero-like training (Dr. GRPO), arXiv:2503.20783.
    Shapes: rewards r [P, G] -> [P, G].
    """
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    # The mean of equal numbers may differ from them by rounding, which a small deviation would blow up.
    return torch.where(equal, 0.0, rewards - rewards.mean(dim=1, keepdim=True))


@completion_advantage
def group_standardized(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (std of its group + ε), the sample standard deviation (over G - 1).

    Rewards minus their group's mean, over its standard deviation (GRPO).
    Paper: Shao et al. 2024, DeepSeekMath (GRPO), section 4.1.2, arXiv:2402.03300.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation; a group of equal rewards gets zeros.
    Convention: TRL's epsilon is 1e-4, that of verl and NeMo RL 1e-6; NeMo RL takes mean and deviation of the others by default.
    """
    return group_centered.formula(rewards) / (rewards.std(dim=1, keepdim=True) + epsilon)


@completion_advantage
def leave_one_out(rewards: Tensor) -> Tensor:
    """r_i - mean of the others of its group = G / (G - 1) (r_i - mean).

    Rewards minus the mean of the other completions of the group (RLOO): a baseline without bias.
    Paper: Ahmadian et al. 2024, Back to basics (RLOO), arXiv:2402.14740.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered.formula(rewards) * (rewards.shape[1] / (rewards.shape[1] - 1))


@completion_advantage
def batch_normalized(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (std of the batch + ε).

    Rewards minus their group's mean, over the standard deviation of all rewards of the batch.
    Paper: Liu et al. 2025, Tricks or traps? A deep dive into RL for LLM reasoning, arXiv:2508.08221.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation.
    """
    return group_centered.formula(rewards) / (rewards.std() + epsilon)


@completion_advantage
def whitened_baseline(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """x / (std of x over the batch + ε), x = r - mean of its group, whose mean over the batch is 0.

    Rewards minus their group's mean, over the standard deviation of those differences (REINFORCE++ with a baseline).
    Paper: Hu et al. 2025, REINFORCE++ with a group baseline, arXiv:2501.03262.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation.
    Convention: over completions; verl and OpenRLHF whiten over tokens, where a long completion counts more.
    """
    centered = group_centered.formula(rewards)
    return centered / (centered.std() + epsilon)


# Other baselines: a greedy completion, a mean weighed by length, the second best.


@completion_advantage(smallest_group=1)
def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """r - reward of the greedy completion of the same prompt.

    Rewards minus that of the greedy completion of the same prompt; one sample of a prompt is enough.
    Paper: Li et al. 2023, ReMax, arXiv:2310.10505.
    Shapes: rewards r [P, G], greedy_rewards [P] -> [P, G].
    """
    return rewards - greedy_rewards[:, None]


@completion_advantage
def opo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """r - Σ n r / Σ n over its group, n the length of a completion: the baseline of least variance for a sum over tokens.

    Rewards minus their group's mean weighed by length (OPO).
    Paper: Hao et al. 2025, On-policy RL with optimal reward baseline (OPO), arXiv:2505.23585.
    Shapes: rewards r [P, G], lengths n [P, G] -> [P, G].
    """
    lengths = lengths.to(rewards.dtype)
    return rewards - (lengths * rewards).sum(dim=1, keepdim=True) / lengths.sum(dim=1, keepdim=True).clamp(min=1)


@completion_advantage
def gpg(rewards: Tensor, *, divisor: Annotated[float, within(above=0, advice="1 is usual")] = 1.0) -> Tensor:
    """α (r - mean of its group) / F, α = completions / completions in groups whose rewards are not all equal.

    Rewards minus their group's mean, scaled up for the groups that teach nothing (GPG).
    Paper: Chu et al. 2025, GPG: group policy gradient, arXiv:2504.02546.
    Shapes: rewards r [P, G] -> [P, G].
    divisor: F, a constant that scales all advantages.
    Convention: verl counts completions of non-zero reward instead of completions in groups that teach something.
    """
    informative = (rewards.amax(dim=1) > rewards.amin(dim=1)).sum()
    return group_centered.formula(rewards) * (len(rewards) / informative.clamp(min=1)) / divisor


@completion_advantage
def best_of_group(rewards: Tensor) -> Tensor:
    """Largest - second largest reward for the best completion of the group, 0 for the others.

    The best completion gets its lead over the second best, the others nothing: the advantage of pass@k with k the group.
    Paper: Tang et al. 2025, Optimizing language models for inference time objectives, arXiv:2503.19595.
    Shapes: rewards r [P, G] -> [P, G].
    """
    best = rewards.topk(2, dim=1)
    gap = best.values[:, :1] - best.values[:, 1:]
    return torch.zeros_like(rewards).scatter(1, best.indices[:, :1], gap)


@completion_advantage
def max_rl(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (mean of its group + ε), for rewards from 0 up: hard prompts count more.

    Rewards minus their group's mean, over that mean (MaxRL).
    Paper: Tajwar et al. 2026, Maximum likelihood reinforcement learning (MaxRL), arXiv:2602.02710.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the mean; a group without a reward gets zeros.
    """
    return group_centered.formula(rewards) / (rewards.mean(dim=1, keepdim=True) + epsilon)
