"""Advantages of whole completions against other baselines: a greedy one, one weighed by length, the second best.

Dimensions: P prompts, G completions of a prompt (the group).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.loss.advantage import EPSILON, Advantage, group_centered
from rlx.loss.hyperparameter import within


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
