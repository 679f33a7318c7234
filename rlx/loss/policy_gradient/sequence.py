"""Policy-gradient losses of a whole sequence's importance ratio.

Each token of a sequence has the value of its sequence, so that the weights decide what a sequence counts.
Dimensions: B sequences, T tokens. Notation: A the advantage, log ρ_t the log-ratio at token t of the policy to the one that
sampled, n the length of the sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.fields import within
from rlx.loss.policy_gradient.base import PolicyGradientLoss, RolloutLogprobs
from rlx.loss.policy_gradient.token import clipped_loss
from rlx.loss.preference.base import masked
from rlx.loss.ratio import LIMIT, clamped_exp, stop_gradient


def gspo_loss(mean_log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """-min(s A, clip(s, 1 - ε_low, 1 + ε_high) A), s = exp(Σ_t log ρ_t / n).

    Paper: Zheng et al. 2025, Group sequence policy optimization (GSPO), eq. 5 and 7, arXiv:2507.18071.
    Shapes: mean_log_ratio [B, T], the same at each token of a sequence, advantages [B, T] -> [B, T].
    """
    return clipped_loss(mean_log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)


@dataclass(frozen=True, kw_only=True)
class Gspo(PolicyGradientLoss):
    """The clipped surrogate of the geometric mean of a sequence's ratios; summed over tokens it is LUSPO.

    clip_low: ε_low; much smaller than a token's, for a mean of log-ratios moves little.
    clip_high: ε_high, likewise.
    Convention: the gradient flows through the mean, as in TRL; verl's token form has the same gradient where all tokens of a
        sequence share their advantage.
    """

    formula: ClassVar = gspo_loss

    clip_low: float = within(at_least=0, at_most=1, advice="3e-4 is that of the paper")
    clip_high: float = within(at_least=0, advice="4e-4 is that of the paper")

    def log_ratio(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the mean of the log-ratios of a sequence, at each of its tokens."""
        return rollouts.mean_over_tokens(rollouts.log_ratio)

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] gspo_loss."""
        return gspo_loss(self.log_ratio(rollouts), rollouts.advantages, clip_low=self.clip_low, clip_high=self.clip_high)


def clipped_log_ratio(log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """sgn(A) min(sgn(A) log ρ, sgn(A) clamp(log ρ, -ε_low, ε_high)): PPO's clip of a token, in log space. [B, T] -> [B, T]."""
    sign = torch.sign(advantages)
    return sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-clip_low, clip_high))


def gmpo_loss(mean_clipped_log_ratio: Tensor, mean_advantage: Tensor) -> Tensor:
    """-Ā exp(Σ_t clipped log ρ_t / n), each log-ratio clipped by itself, in log space.

    Paper: Zhao et al. 2025, Geometric-mean policy optimization (GMPO), arXiv:2507.20673.
    Shapes: mean_clipped_log_ratio [B, T] and mean_advantage Ā [B, T], the same at each token of a sequence -> [B, T].
    """
    return -mean_advantage * clamped_exp(mean_clipped_log_ratio)


@dataclass(frozen=True, kw_only=True)
class Gmpo(PolicyGradientLoss):
    """The geometric mean of the token ratios, each clipped in log space before.

    clip_low: ε_low, how far a token's log-ratio may fall below 0 where the advantage is negative.
    clip_high: ε_high, how far it may rise above 0 where the advantage is positive.
    Convention: the ends are of the log-ratio, not of the ratio: the paper's (e^-0.4, e^0.4) is 0.4 and 0.4 here.
    """

    formula: ClassVar = gmpo_loss

    clip_low: float = within(at_least=0, advice="0.4 is that of the paper")
    clip_high: float = within(at_least=0, advice="0.4 is that of the paper")

    def clip_ends(self) -> tuple[float, float]:
        """e^-clip_low and e^clip_high."""
        return math.exp(-self.clip_low), math.exp(self.clip_high)

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] gmpo_loss."""
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        clipped = clipped_log_ratio(rollouts.log_ratio, rollouts.advantages, **clips)
        return gmpo_loss(rollouts.mean_over_tokens(clipped), rollouts.mean_over_tokens(rollouts.advantages))


def vespo_weight(log_ratio_sum: Tensor, *, shape: Tensor, rate: Tensor) -> Tensor:
    """φ(w) = exp(λ + k log w - λ w), 1 at w = 1; log w = log_ratio_sum clamped to [log 1e-8, 20]. All [B, T] -> [B, T]."""
    log_weight = log_ratio_sum.clamp(math.log(1e-8), LIMIT)
    return torch.exp(rate + shape * log_weight - rate * torch.exp(log_weight))


def vespo_loss(token_logprobs: Tensor, weight: Tensor, advantages: Tensor) -> Tensor:
    """-sg(φ(w)) A log π, φ(w) = exp(λ + k log w - λ w), w = Π_t ρ_t; k and λ by the sign of A.

    Paper: Shen et al. 2026, VESPO: variational sequence-level soft policy optimization, arXiv:2602.10693.
    Shapes: token_logprobs [B, T], weight φ [B, T], advantages [B, T] -> [B, T].
    """
    return -stop_gradient(weight) * advantages * token_logprobs


@dataclass(frozen=True, kw_only=True)
class Vespo(PolicyGradientLoss):
    """REINFORCE weighed by a smooth bump of the whole sequence's ratio instead of a clip.

    shape_positive: k where the advantage is at least 0: how fast the weight falls as the ratio goes to 0.
    rate_positive: λ there: how fast it falls as the ratio grows.
    shape_negative: k where the advantage is negative.
    rate_negative: λ there.
    Convention: each log ρ_t is clamped to ±20 before the sum, the sum to [log 1e-8, 20], as in TRL.
    """

    formula: ClassVar = vespo_loss

    shape_positive: float = within(at_least=0, advice="2 is that of the paper")
    rate_positive: float = within(above=0, advice="3 is that of the paper")
    shape_negative: float = within(at_least=0, advice="3 is that of the paper")
    rate_negative: float = within(above=0, advice="2 is that of the paper")

    def log_ratio(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] the sum of the log-ratios of a sequence, at each of its tokens."""
        clamped = masked(rollouts.log_ratio.clamp(-LIMIT, LIMIT), rollouts.completion_mask)
        return clamped.sum(dim=-1, keepdim=True).expand_as(clamped)

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] vespo_loss."""
        advantages = rollouts.advantages
        positive, like = advantages >= 0, advantages.new_ones(())
        shape = torch.where(positive, like * self.shape_positive, like * self.shape_negative)
        rate = torch.where(positive, like * self.rate_positive, like * self.rate_negative)
        return vespo_loss(rollouts.token_logprobs, vespo_weight(self.log_ratio(rollouts), shape=shape, rate=rate), advantages)
