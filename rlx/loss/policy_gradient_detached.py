"""Policy-gradient losses that weigh REINFORCE by a ratio held constant: no token loses its gradient to a clip of the ratio.

Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, π_s the policy that sampled, ρ = π / π_s, sg the
stop-gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.loss.hyperparameter import within
from rlx.loss.policy_gradient import CLIP_HIGH, CLIP_LOW
from rlx.loss.policy_gradient_base import PolicyGradientLoss
from rlx.loss.ratio import clamped_exp
from rlx.loss.rollout_logprobs import RolloutLogprobs
from rlx.loss.stop_gradient import stop_gradient


def cispo_loss(token_logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, *, ratio_low: float, ratio_high: float) -> Tensor:
    """-sg(clamp(ρ, low, high)) A log π.

    Paper: MiniMax 2025, MiniMax-M1 (CISPO), arXiv:2506.13585.
    Shapes: token_logprobs log π [B, T], log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    """
    return -stop_gradient(clamped_exp(log_ratio).clamp(ratio_low, ratio_high)) * advantages * token_logprobs


@dataclass(frozen=True, kw_only=True)
class CispoBand(PolicyGradientLoss):
    """CISPO with the ratio held in a band around 1: low = 1 - ε_low, high = 1 + ε_high.

    clip_low: ε_low; 1 means no lower end, as in the paper.
    clip_high: ε_high.
    Convention: verl and NeMo RL have this band; TRL's epsilon_high is the absolute cap of cispo_cap.
    """

    formula: ClassVar = cispo_loss

    clip_low: float = within(at_least=0, at_most=1, advice=CLIP_LOW)
    clip_high: float = within(at_least=0, advice=CLIP_HIGH)

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] cispo_loss."""
        ends = {"ratio_low": 1 - self.clip_low, "ratio_high": 1 + self.clip_high}
        return cispo_loss(rollouts.token_logprobs, rollouts.log_ratio, rollouts.advantages, **ends)


@dataclass(frozen=True, kw_only=True)
class CispoCap(PolicyGradientLoss):
    """CISPO with an absolute cap on the ratio and no lower end: low = 0, high = the cap.

    ratio_cap: the largest weight a token can have.
    Convention: TRL has this cap (its epsilon_high); verl and NeMo RL have the band of cispo_band.
    """

    formula: ClassVar = cispo_loss

    ratio_cap: float = within(above=0, advice="5 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] cispo_loss."""
        ends = {"ratio_low": 0.0, "ratio_high": self.ratio_cap}
        return cispo_loss(rollouts.token_logprobs, rollouts.log_ratio, rollouts.advantages, **ends)


def dppo_loss(token_logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, region: Tensor, *, ratio_cap: float) -> Tensor:
    """-A sg(min(ρ, c)) log π where the token is within the trust region or A draws it back, 0 elsewhere.

    Paper: Qi et al. 2026, Rethinking the trust region in LLM reinforcement learning (DPPO), arXiv:2602.04879.
    Shapes: token_logprobs log π [B, T], log_ratio log ρ [B, T], advantages [B, T], region bool [B, T] -> [B, T].
    """
    weight = clamped_exp(log_ratio).clamp(max=ratio_cap) * region
    return -stop_gradient(weight) * advantages * token_logprobs


def total_variation_region(
    token_logprobs: Tensor, behaviour_logprobs: Tensor, advantages: Tensor, *, low: float, high: float
) -> Tensor:
    """π - π_s <= high where A > 0, and >= -low elsewhere: the binary total variation of a token. All [B, T] -> bool [B, T]."""
    difference = torch.exp(token_logprobs) - torch.exp(behaviour_logprobs)
    return torch.where(advantages > 0, difference <= high, difference >= -low)


def binary_kl(token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """KL(π_s || π) of the sampled token against all others: p log(p/q) + (1-p) log((1-p)/(1-q)). All [B, T] -> [B, T]."""
    sampled, policy = torch.exp(behaviour_logprobs), torch.exp(token_logprobs)
    others = torch.log((1 - sampled + 1e-8) / (1 - policy + 1e-8))  # 1e-8 keeps a certain token finite
    return sampled * (behaviour_logprobs - token_logprobs) + (1 - sampled) * others


def kl_region(token_logprobs: Tensor, behaviour_logprobs: Tensor, advantages: Tensor, *, low: float, high: float) -> Tensor:
    """The binary KL of a token is <= high (A > 0) or low (elsewhere), or A draws the token back. All [B, T] -> bool [B, T]."""
    distance, rising = binary_kl(token_logprobs, behaviour_logprobs), token_logprobs - behaviour_logprobs
    return torch.where(advantages > 0, (distance <= high) | (rising <= 0), (distance <= low) | (rising >= 0))


@dataclass(frozen=True, kw_only=True)
class DppoTv(PolicyGradientLoss):
    """REINFORCE with a truncated ratio, within a trust region of the probability's own change (total variation).

    divergence_low: how much a token's probability may fall where the advantage is not positive.
    divergence_high: how much it may rise where the advantage is positive.
    ratio_cap: c, the largest weight a token can have.
    """

    formula: ClassVar = dppo_loss

    divergence_low: float = within(at_least=0, at_most=1, advice="a probability changes by 1 at most; 0.2 is usual")
    divergence_high: float = within(at_least=0, at_most=1, advice="a probability changes by 1 at most; 0.2 is usual")
    ratio_cap: float = within(above=0, advice="20 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] dppo_loss within total_variation_region."""
        given = (rollouts.token_logprobs, rollouts.behaviour_logprobs, rollouts.advantages)
        region = total_variation_region(*given, low=self.divergence_low, high=self.divergence_high)
        return dppo_loss(rollouts.token_logprobs, rollouts.log_ratio, rollouts.advantages, region, ratio_cap=self.ratio_cap)


@dataclass(frozen=True, kw_only=True)
class DppoKl(PolicyGradientLoss):
    """REINFORCE with a truncated ratio, within a trust region of the binary KL of a token.

    divergence_low: the largest binary KL at which a token still learns where the advantage is not positive.
    divergence_high: the largest at which it does where the advantage is positive.
    ratio_cap: c, the largest weight a token can have.
    """

    formula: ClassVar = dppo_loss

    divergence_low: float = within(at_least=0, advice="0.05 is usual")
    divergence_high: float = within(at_least=0, advice="0.05 is usual")
    ratio_cap: float = within(above=0, advice="20 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] dppo_loss within kl_region."""
        given = (rollouts.token_logprobs, rollouts.behaviour_logprobs, rollouts.advantages)
        region = kl_region(*given, low=self.divergence_low, high=self.divergence_high)
        return dppo_loss(rollouts.token_logprobs, rollouts.log_ratio, rollouts.advantages, region, ratio_cap=self.ratio_cap)
