"""Advantages of whole completions: reward minus a baseline, scaled in different ways.

Dimensions: P prompts, G completions of a prompt (the group).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import Ranged, class_of, evaluated, reads_of, with_options, within
from rlx.loss.base import require_shape

OPTIONAL = ("lengths", "greedy_rewards", "reward_parts", "reward_weights")
Threshold = Annotated[float, within(advice="rewards above it are right; 0.5 lies between 0 and 1")]
Epsilon = Annotated[float, within(above=0, advice="it keeps groups of equal rewards finite; 1e-6 is usual")]


@dataclass(frozen=True, kw_only=True)
class Advantage(Ranged, ABC):
    """An advantage of completions: `advantage(rewards, lengths=..., ...) -> [P, G]`.

    requires: names of the other inputs that it reads: lengths [P, G] of the completions, greedy_rewards [P],
        reward_parts [P, G, K] and reward_weights [K] of the K rewards whose weighted sum `rewards` is.
    smallest_group: the smallest group size for which the formula is meaningful; smaller groups are refused.
    """

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[frozenset[str]] = frozenset()
    smallest_group: ClassVar[int] = 2

    def __call__(self, rewards: Tensor, **given: Tensor | None) -> Tensor:
        """Advantages [P, G], detached."""
        own = type(self).__name__
        if rewards.ndim != 2:
            raise ShapeError(f"{own} takes rewards [P, G], one row per prompt, but got {tuple(rewards.shape)}")
        if rewards.shape[1] < self.smallest_group:
            raise ShapeError(
                f"{own} compares the completions of a prompt, but got rewards {tuple(rewards.shape)}: "
                f"{rewards.shape[1]} per prompt; set group_size to {self.smallest_group} or more"
            )
        unknown = sorted(set(given) - set(OPTIONAL))
        if unknown:
            raise ShapeError(f"{own} cannot read {', '.join(unknown)}; a completion advantage may read {', '.join(OPTIONAL)}")
        missing = sorted(name for name in self.requires if given.get(name) is None)
        if missing:
            raise ShapeError(f"{own} needs {', '.join(missing)} in addition to the rewards; pass it by that name")
        needed = {name: value.detach() for name, value in given.items() if name in self.requires and value is not None}
        found = self.of_rewards(rewards.detach(), **needed)
        return require_shape(found, rewards.shape, by=own, of="an advantage for each reward")

    @abstractmethod
    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """The formula: advantages [P, G]."""


@dataclass(frozen=True, kw_only=True)
class AdvantageFormula(Advantage):
    """An advantage of completions defined by one function; `completion_advantage` creates its subclasses."""

    def of_rewards(self, rewards: Tensor, **needed: Tensor) -> Tensor:
        """Call the formula with the inputs that it reads: advantages [P, G]."""
        found: Tensor = evaluated(self, {"rewards": rewards, **needed}.__getitem__)
        return found


@with_options
def completion_advantage(function: Callable[..., Tensor], *, smallest_group: int = 2) -> type[Advantage]:
    """Make a class of advantages of completions from its formula, which returns [P, G].

    Example: @completion_advantage
             def my_advantage(rewards, *, scale=1.0):
                 return scale * (rewards - rewards.mean(dim=1, keepdim=True))

    The formula may read rewards [P, G], lengths [P, G] in tokens, greedy_rewards [P] of the greedy completion of each prompt,
    and reward_parts [P, G, K] with reward_weights [K].
    smallest_group: the smallest group size for which the formula is meaningful.
    Raises ConfigError if a parameter has another name.
    """
    names = ("rewards", *OPTIONAL)
    requires = frozenset(OPTIONAL).intersection(reads_of(function, names))
    return class_of(function, AdvantageFormula, names, smallest_group=smallest_group, requires=requires)


@completion_advantage
def group_centered(rewards: Tensor) -> Tensor:
    """r - mean of its group.

    Rewards minus their group's mean (Dr. GRPO), not divided by the deviation, so easy and hard prompts keep their scale.
    Paper: Liu et al. 2025, Understanding R1-zero-like training (Dr. GRPO), arXiv:2503.20783.
    Shapes: rewards r [P, G] -> [P, G].
    """
    equal = rewards.amax(dim=1, keepdim=True) == rewards.amin(dim=1, keepdim=True)
    # The mean of equal numbers may differ from them by rounding, which division by a tiny deviation would amplify.
    return torch.where(equal, 0.0, rewards - rewards.mean(dim=1, keepdim=True))


@completion_advantage
def group_standardized(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (std of its group + ε), the sample standard deviation (over G - 1).

    Rewards minus their group's mean, divided by its standard deviation (GRPO).
    Paper: Shao et al. 2024, DeepSeekMath (GRPO), section 4.1.2, arXiv:2402.03300.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation; a group of equal rewards gets zeros.
    Convention: TRL's epsilon is 1e-4, verl's and NeMo RL's 1e-6; NeMo RL by default uses mean and deviation of the other samples.
    """
    return group_centered.formula(rewards) / (rewards.std(dim=1, keepdim=True) + epsilon)


@completion_advantage
def leave_one_out(rewards: Tensor) -> Tensor:
    """r_i - mean of the others in its group = G / (G - 1) (r_i - mean).

    Rewards minus the mean of the other completions of the group (RLOO): an unbiased baseline.
    Paper: Ahmadian et al. 2024, Back to basics (RLOO), arXiv:2402.14740.
    Shapes: rewards r [P, G] -> [P, G].
    """
    return group_centered.formula(rewards) * (rewards.shape[1] / (rewards.shape[1] - 1))


@completion_advantage
def batch_normalized(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (std of the batch + ε).

    Rewards minus their group's mean, divided by the standard deviation of all rewards in the batch.
    Paper: Liu et al. 2025, Tricks or traps? A deep dive into RL for LLM reasoning, arXiv:2508.08221.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation.
    """
    return group_centered.formula(rewards) / (rewards.std() + epsilon)


@completion_advantage
def whitened_baseline(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """x / (std of x over the batch + ε), x = r - mean of its group, whose mean over the batch is 0.

    Rewards minus their group's mean, divided by the standard deviation of those differences (REINFORCE++ with a baseline).
    Paper: Hu et al. 2025, REINFORCE++ with a group baseline, arXiv:2501.03262.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the standard deviation.
    Convention: over completions; verl and OpenRLHF whiten over tokens, where a long completion counts more.
    """
    centered = group_centered.formula(rewards)
    return centered / (centered.std() + epsilon)


# Other baselines: the greedy completion, a mean weighted by length, the second best completion.


@completion_advantage(smallest_group=1)
def remax(rewards: Tensor, greedy_rewards: Tensor) -> Tensor:
    """r - reward of the greedy completion of the same prompt.

    Reward minus the reward of the greedy completion of the same prompt; one sample per prompt is enough.
    Paper: Li et al. 2023, ReMax, arXiv:2310.10505.
    Shapes: rewards r [P, G], greedy_rewards [P] -> [P, G].
    """
    return rewards - greedy_rewards[:, None]


@completion_advantage
def opo(rewards: Tensor, lengths: Tensor) -> Tensor:
    """r - Σ n r / Σ n over its group, n the length of a completion: the minimum-variance baseline for a sum over tokens.

    Rewards minus their group's mean weighted by length (OPO).
    Paper: Hao et al. 2025, On-policy RL with optimal reward baseline (OPO), arXiv:2505.23585.
    Shapes: rewards r [P, G], lengths n [P, G] -> [P, G].
    """
    lengths = lengths.to(rewards.dtype)
    return rewards - (lengths * rewards).sum(dim=1, keepdim=True) / lengths.sum(dim=1, keepdim=True).clamp(min=1)


@completion_advantage
def gpg(rewards: Tensor, *, divisor: Annotated[float, within(above=0, advice="1 is usual")] = 1.0) -> Tensor:
    """α (r - mean of its group) / F, α = completions / completions in groups whose rewards are not all equal.

    Rewards minus their group's mean, scaled up to make up for the groups whose rewards are all equal (GPG).
    Paper: Chu et al. 2025, GPG: group policy gradient, arXiv:2504.02546.
    Shapes: rewards r [P, G] -> [P, G].
    divisor: F, a constant that scales all advantages.
    Convention: verl counts completions of non-zero reward instead of completions in groups with unequal rewards.
    """
    informative = (rewards.amax(dim=1) > rewards.amin(dim=1)).sum()
    return group_centered.formula(rewards) * (len(rewards) / informative.clamp(min=1)) / divisor


@completion_advantage
def best_of_group(rewards: Tensor) -> Tensor:
    """Largest - second largest reward for the best completion of the group, 0 for the others.

    The best completion gets its lead over the second best, the others 0: the advantage of pass@k with k = G.
    Paper: Tang et al. 2025, Optimizing language models for inference time objectives, arXiv:2503.19595.
    Shapes: rewards r [P, G] -> [P, G].
    """
    best = rewards.topk(2, dim=1)
    gap = best.values[:, :1] - best.values[:, 1:]
    return torch.zeros_like(rewards).scatter(1, best.indices[:, :1], gap)


@completion_advantage
def max_rl(rewards: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(r - mean of its group) / (mean of its group + ε), for non-negative rewards: hard prompts count more.

    Rewards minus their group's mean, divided by that mean (MaxRL).
    Paper: Tajwar et al. 2026, Maximum likelihood reinforcement learning (MaxRL), arXiv:2602.02710.
    Shapes: rewards r [P, G] -> [P, G].
    epsilon: added to the mean; a group whose rewards are all 0 gets zeros.
    """
    return group_centered.formula(rewards) / (rewards.mean(dim=1, keepdim=True) + epsilon)


@completion_advantage
def max_at_k(
    rewards: Tensor, *, k: Annotated[int, within(at_least=2, whole=True, advice="it counts the completions of one try")] = 2
) -> Tensor:
    """Σ (largest of I - largest of I without i) / C(G, k) over all sets I of k completions that contain completion i.

    How much a completion raises the best of k: an unbiased estimate, from G >= k samples, of the gradient of E[largest of k].
    Paper: Walder and Karkhanis 2025, Pass@k policy optimization (PKPO), the leave-one-out-minus-one form, arXiv:2505.15201.
    Shapes: rewards r [P, G] -> [P, G].
    k: the number of completions of which the best one counts; with k = G it equals best_of_group.
    Raises ShapeError if a group has fewer than k completions.
    """
    size = rewards.shape[1]
    if k > size:
        raise ShapeError(f"max_at_k with k = {k} needs groups of at least {k}, but they have {size}; set group_size or k")
    ordered = rewards.sort(dim=1)
    # A set contributes only to its best completion. With the runner-up at rank q (from 0) there are C(q, k - 2) such sets.
    sets = rewards.new_tensor([math.comb(place, k - 2) for place in range(size)]) / math.comb(size, k)
    below_count, below_sum = (values.cumsum(dim=-1) - values for values in (sets.expand_as(rewards), sets * ordered.values))
    return torch.zeros_like(rewards).scatter(1, ordered.indices, below_count * ordered.values - below_sum)


@completion_advantage
def gdpo(reward_parts: Tensor, reward_weights: Tensor, *, epsilon: Epsilon = 1e-6) -> Tensor:
    """(x - mean of x over the batch) / (std of x over the batch + ε), x = Σ_k w_k (r_k - mean) / (std + ε), each of its group.

    Several rewards, each standardised within its group before they are summed, so that no reward dominates by its spread.
    Paper: Liu et al. 2026, GDPO: group reward-decoupled normalization policy optimization, arXiv:2601.05242.
    Shapes: reward_parts r [P, G, K], reward_weights w [K] -> [P, G].
    epsilon: added to each standard deviation.
    Convention: with one reward it is group_standardized, whitened over the batch.
    Convention: algorithm.kl_in_reward adds the negative KL of a completion as one more reward, with that weight.
    """
    parts = torch.stack([group_standardized.formula(part, epsilon=epsilon) for part in reward_parts.unbind(dim=-1)], dim=-1)
    summed = (reward_weights * parts).sum(dim=-1)
    return (summed - summed.mean()) / (summed.std() + epsilon)


@completion_advantage
def asymmetric_reinforce(
    rewards: Tensor,
    *,
    shift: Annotated[float, within(at_most=0, advice="a baseline above the mean is not stable; try -0.1")] = -0.1,
) -> Tensor:
    """r - (mean of its group + δ).

    Rewards minus a baseline slightly below their group's mean: off policy, good completions then count more than bad ones.
    Paper: Arnal et al. 2025, Asymmetric REINFORCE for off-policy reinforcement learning (AsymRE), arXiv:2506.20520.
    Shapes: rewards r [P, G] -> [P, G].
    shift: δ, at most 0; 0 is group_centered.
    """
    return rewards - (rewards.mean(dim=1, keepdim=True) + shift)


# Advantages for correct/incorrect rewards.


@completion_advantage(smallest_group=1)
def raft(rewards: Tensor, *, threshold: Threshold = 0.5) -> Tensor:
    """1 if r > threshold, else 0.

    Trains only on correct completions, all with the same weight (RAFT): supervised fine-tuning on the samples that passed.
    Paper: Xiong et al. 2025, A minimalist approach to LLM reasoning (RAFT, Reinforce-Rej), arXiv:2504.11343.
    Shapes: rewards r [P, G] -> [P, G].
    threshold: a completion with a reward above it is correct.
    """
    return (rewards > threshold).to(rewards.dtype)


@completion_advantage
def reinforce_rej(rewards: Tensor, *, threshold: Threshold = 0.5) -> Tensor:
    """1 if r > threshold, else -1; 0 in groups that are all right or all wrong.

    Correct completions up, wrong ones down, without a baseline; ignores prompts that are too easy or too hard (Reinforce-Rej).
    Paper: Xiong et al. 2025, A minimalist approach to LLM reasoning (RAFT, Reinforce-Rej), arXiv:2504.11343.
    Shapes: rewards r [P, G] -> [P, G].
    threshold: a completion with a reward above it is correct.
    """
    right = rewards > threshold
    mixed = right.any(dim=1, keepdim=True) & ~right.all(dim=1, keepdim=True)
    return torch.where(mixed, torch.where(right, 1.0, -1.0), 0.0).to(rewards.dtype)


@completion_advantage(smallest_group=1)
def weighted_reinforce(
    rewards: Tensor,
    *,
    positive_weight: Annotated[
        float, within(at_least=0, advice="0 learns from wrong completions alone; 0.1 is that of the paper")
    ] = 0.1,
    threshold: Threshold = 0.5,
) -> Tensor:
    """λ if r > threshold, else -1.

    Wrong completions down, correct ones up only a little, which keeps the policy diverse (W-REINFORCE).
    Paper: Zhu et al. 2025, The surprising effectiveness of negative reinforcement in LLM reasoning, arXiv:2506.01347.
    Shapes: rewards r [P, G] -> [P, G].
    positive_weight: λ, the weight of a correct completion; 1 is plain REINFORCE on ±1.
    threshold: a completion with a reward above it is correct.
    """
    return torch.where(rewards > threshold, rewards.new_tensor(positive_weight), rewards.new_tensor(-1.0))
