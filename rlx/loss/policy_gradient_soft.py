"""Policy-gradient losses that bend the ratio smoothly where PPO clips it.

Dimensions: B sequences, T tokens. Notation: A the advantage, log ρ the log-ratio of the policy to the one that sampled; σ the
logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.loss.hyperparameter import within
from rlx.loss.policy_gradient_base import PolicyGradientLoss
from rlx.loss.ratio import clamped_exp
from rlx.loss.rollout_logprobs import RolloutLogprobs


def sapo_loss(log_ratio: Tensor, advantages: Tensor, temperature: Tensor) -> Tensor:
    """-(4/τ) σ(τ (ρ - 1)) A, τ by the sign of A.

    Paper: Gao et al. 2025, Soft adaptive policy optimization (SAPO), arXiv:2511.20347.
    Shapes: log_ratio log ρ [B, T], advantages [B, T], temperature τ [B, T] -> [B, T].
    """
    return -4 / temperature * torch.sigmoid(temperature * (clamped_exp(log_ratio) - 1)) * advantages


@dataclass(frozen=True, kw_only=True)
class Sapo(PolicyGradientLoss):
    """A sigmoid gate of the ratio: its gradient is that of ρ A at ρ = 1 and fades on both sides.

    temperature_positive: τ where the advantage is above 0; a larger one fades sooner.
    temperature_negative: τ elsewhere; the paper has it larger, for such tokens are the less stable ones.
    Convention: its value at ρ = 1 is -2 A / τ, not -A; only the gradient agrees with the others there.
    """

    formula: ClassVar = sapo_loss

    temperature_positive: float = within(above=0, advice="1 is usual")
    temperature_negative: float = within(above=0, advice="1.05 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] sapo_loss."""
        like = rollouts.advantages.new_ones(())
        positive, negative = like * self.temperature_positive, like * self.temperature_negative
        temperature = torch.where(rollouts.advantages > 0, positive, negative)
        return sapo_loss(rollouts.log_ratio, rollouts.advantages, temperature)


def dro_loss(token_logprobs: Tensor, log_ratio: Tensor, advantages: Tensor, *, tau: float) -> Tensor:
    """-(A log π - τ/2 (log ρ)²).

    Paper: Richemond et al. 2024, Offline regularised reinforcement learning (DRO), arXiv:2405.19107.
    Shapes: token_logprobs log π [B, T], log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    """
    return -(advantages * token_logprobs - tau / 2 * log_ratio**2)


@dataclass(frozen=True, kw_only=True)
class Dro(PolicyGradientLoss):
    """REINFORCE held to the policy that sampled by the square of the log-ratio: no clip, right off policy.

    tau: τ, how strongly the policy is held to the one that sampled (verl calls it beta; beta is the KL to the reference here).
    """

    formula: ClassVar = dro_loss

    tau: float = within(at_least=0, advice="a negative one would reward drift; 0.05 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] dro_loss."""
        return dro_loss(rollouts.token_logprobs, rollouts.log_ratio, rollouts.advantages, tau=self.tau)
