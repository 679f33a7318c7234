"""Advantages of whole completions: their reward less the mean of their group, on one scale or another.

Dimensions: P prompts, G completions of a prompt (the group).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import check_hyperparameters, within

EPSILON = "it keeps groups of equal rewards finite; 1e-6 is usual"


def group_centered(rewards: Tensor) -> Tensor:
    """r - mean of its group.

    Paper: Liu et al. 2025, Understanding R1-zero-like training (Dr. GRPO), arXiv:2503.20783.
    Shapes: rewards r [P, G] -> [P, G].
    """
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    # The mean of equal numbers may differ from them by rounding, which a small deviation would blow up.
    return torch.where(equal, 0.0, rewards - rewards.mean(dim=1, keepdim=True))


def group_standardized(rewards: Tensor, *, epsilon: float) -> Tensor:
    """(r - mean of its group) / (std of its group + ε), the sample standard deviation (over G - 1).

    Paper: Shao et al. 2024, DeepSeekMath (GRPO), section 4.1.2, arXiv:2402.03300.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered(rewards) / (rewards.std(dim=1, keepdim=True) + epsilon)


def leave_one_out(rewards: Tensor) -> Tensor:
    """r_i - mean of the others of its group = G / (G - 1) (r_i - mean).

    Paper: Ahmadian et al. 2024, Back to basics (RLOO), arXiv:2402.14740.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered(rewards) * (rewards.shape[1] / (rewards.shape[1] - 1))


def batch_normalized(rewards: Tensor, *, epsilon: float) -> Tensor:
    """(r - mean of its group) / (std of the batch + ε).

    Paper: Liu et al. 2025, Tricks or traps? A deep dive into RL for LLM reasoning, arXiv:2508.08221.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered(rewards) / (rewards.std() + epsilon)


def whitened_baseline(rewards: Tensor, *, epsilon: float) -> Tensor:
    """x / (std of x over the batch + ε), x = r - mean of its group, whose mean over the batch is 0.

    Paper: Hu et al. 2025, REINFORCE++ with a group baseline, arXiv:2501.03262.
    Shapes: rewards r [P, G] -> [P, G].
    """
    centered = group_centered(rewards)
    return centered / (centered.std() + epsilon)


def require_advantages(found: Any, like: Tensor, *, by: str) -> Tensor:
    """What a formula of advantages gave. Raises ShapeError if it is no tensor of the shape of `like`."""
    if not isinstance(found, Tensor) or found.shape != like.shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else "None" if found is None else f"a {type(found).__name__}"
        raise ShapeError(f"{by} gives {given}, not an advantage for each reward, a tensor of shape {tuple(like.shape)}")
    return found


@dataclass(frozen=True, kw_only=True)
class Advantage(ABC):
    """An advantage of completions: `advantage(rewards, lengths=..., greedy_rewards=...) -> [P, G]`.

    requires: names of the further inputs that it reads: lengths [P, G] of the completions, greedy_rewards [P].
    smallest_group: fewer completions of a prompt than this make no sense and are refused.
    """

    requires: ClassVar[frozenset[str]] = frozenset()
    smallest_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_hyperparameters(self)

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
        return require_advantages(self.of_rewards(rewards.detach(), **needed), rewards, by=f"{own}.of_rewards")

    @abstractmethod
    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] the formula."""


@dataclass(frozen=True, kw_only=True)
class GroupCentered(Advantage):
    """Rewards minus their group's mean (Dr. GRPO): no division, so easy and hard prompts keep their scale."""

    formula: ClassVar = group_centered

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] group_centered."""
        return group_centered(rewards)


@dataclass(frozen=True, kw_only=True)
class GroupStandardized(Advantage):
    """Rewards minus their group's mean, over its standard deviation (GRPO).

    epsilon: added to the standard deviation; a group of equal rewards gets zeros.
    Convention: TRL's epsilon is 1e-4, that of verl and NeMo RL 1e-6; NeMo RL takes mean and deviation of the others by default.
    """

    formula: ClassVar = group_standardized

    epsilon: float = within(above=0, advice=EPSILON)

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] group_standardized."""
        return group_standardized(rewards, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class LeaveOneOut(Advantage):
    """Rewards minus the mean of the other completions of the group (RLOO): a baseline without bias."""

    formula: ClassVar = leave_one_out

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] leave_one_out."""
        return leave_one_out(rewards)


@dataclass(frozen=True, kw_only=True)
class BatchNormalized(Advantage):
    """Rewards minus their group's mean, over the standard deviation of all rewards of the batch.

    epsilon: added to the standard deviation.
    """

    formula: ClassVar = batch_normalized

    epsilon: float = within(above=0, advice=EPSILON)

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] batch_normalized."""
        return batch_normalized(rewards, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class WhitenedBaseline(Advantage):
    """Rewards minus their group's mean, over the standard deviation of those differences (REINFORCE++ with a baseline).

    epsilon: added to the standard deviation.
    Convention: over completions; verl and OpenRLHF whiten over tokens, where a long completion counts more.
    """

    formula: ClassVar = whitened_baseline

    epsilon: float = within(above=0, advice=EPSILON)

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] whitened_baseline."""
        return whitened_baseline(rewards, epsilon=self.epsilon)


# Advantages of whole completions against other baselines: a greedy one, one weighed by length, the second best.


def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """r - reward of the greedy completion of the same prompt.

    Paper: Li et al. 2023, ReMax, arXiv:2310.10505.
    Shapes: rewards r [P, G], greedy_rewards [P] -> [P, G].
    """
    return rewards - greedy_rewards[:, None]


@dataclass(frozen=True, kw_only=True)
class ReMax(Advantage):
    """Rewards minus that of the greedy completion of the same prompt; one sample of a prompt is enough."""

    formula: ClassVar = remax
    requires: ClassVar[frozenset[str]] = frozenset({"greedy_rewards"})
    smallest_group: ClassVar[int] = 1

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] remax."""
        return remax(rewards, needed["greedy_rewards"])


def opo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """r - Σ n r / Σ n over its group, n the length of a completion: the baseline of least variance for a sum over tokens.

    Paper: Hao et al. 2025, On-policy RL with optimal reward baseline (OPO), arXiv:2505.23585.
    Shapes: rewards r [P, G], lengths n [P, G] -> [P, G].
    """
    lengths = lengths.to(rewards.dtype)
    return rewards - (lengths * rewards).sum(dim=1, keepdim=True) / lengths.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Opo(Advantage):
    """Rewards minus their group's mean weighed by length (OPO)."""

    formula: ClassVar = opo
    requires: ClassVar[frozenset[str]] = frozenset({"lengths"})

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] opo."""
        return opo(rewards, needed["lengths"])


def gpg(rewards: Tensor, *, divisor: float) -> Tensor:
    """α (r - mean of its group) / F, α = completions / completions in groups whose rewards are not all equal.

    Paper: Chu et al. 2025, GPG: group policy gradient, arXiv:2504.02546.
    Shapes: rewards r [P, G] -> [P, G].
    """
    centered = group_centered(rewards)
    informative = (rewards.amax(dim=1) > rewards.amin(dim=1)).sum()
    return centered * (len(rewards) / informative.clamp(min=1)) / divisor


@dataclass(frozen=True, kw_only=True)
class Gpg(Advantage):
    """Rewards minus their group's mean, scaled up for the groups that teach nothing (GPG).

    divisor: F, a constant that scales all advantages.
    Convention: verl counts completions of non-zero reward instead of completions in groups that teach something.
    """

    formula: ClassVar = gpg

    divisor: float = within(above=0, advice="1 is usual")

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] gpg."""
        return gpg(rewards, divisor=self.divisor)


def pass_at_k(rewards: Tensor) -> Tensor:
    """Largest - second largest reward for the best completion of the group, 0 for the others.

    Paper: Tang et al. 2025, Optimizing language models for inference time objectives, arXiv:2503.19595.
    Shapes: rewards r [P, G] -> [P, G].
    """
    best = rewards.topk(2, dim=1)
    gap = best.values[:, :1] - best.values[:, 1:]
    return torch.zeros_like(rewards).scatter(1, best.indices[:, :1], gap)


@dataclass(frozen=True, kw_only=True)
class PassAtK(Advantage):
    """The best completion gets its lead over the second best, the others nothing."""

    formula: ClassVar = pass_at_k

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] pass_at_k."""
        return pass_at_k(rewards)


def max_rl(rewards: Tensor, *, epsilon: float) -> Tensor:
    """(r - mean of its group) / (mean of its group + ε), for rewards from 0 up: hard prompts count more.

    Paper: Tajwar et al. 2026, Maximum likelihood reinforcement learning (MaxRL), arXiv:2602.02710.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered(rewards) / (rewards.mean(dim=1, keepdim=True) + epsilon)


@dataclass(frozen=True, kw_only=True)
class MaxRl(Advantage):
    """Rewards minus their group's mean, over that mean (MaxRL).

    epsilon: added to the mean; a group without a reward gets zeros.
    """

    formula: ClassVar = max_rl

    epsilon: float = within(above=0, advice=EPSILON)

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """[P, G] max_rl."""
        return max_rl(rewards, epsilon=self.epsilon)
