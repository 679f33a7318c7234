"""Policy-gradient losses of a token's importance ratio: REINFORCE, PPO's clip, and its two- and three-sided relatives.

Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, log ρ the log-ratio of π to the policy that sampled.
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

CLIP_LOW = "a ratio is never below 0, so 1 means no lower clip; 0.2 is usual"
CLIP_HIGH = "0.2 is usual, 0.28 that of DAPO"


def reinforce_loss(token_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log π.

    Paper: Williams 1992, Simple statistical gradient-following algorithms, doi:10.1007/BF00992696; as in GPG, arXiv:2504.02546.
    Shapes: token_logprobs [B, T], advantages [B, T] -> [B, T].
    """
    return -advantages * token_logprobs


@dataclass(frozen=True, kw_only=True)
class Reinforce(PolicyGradientLoss):
    """The plain policy gradient: right on policy, with no correction once the policy has moved.

    Convention: its value is no objective and may have any sign; only the gradient means something.
    """

    formula: ClassVar = reinforce_loss

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] reinforce_loss."""
        return reinforce_loss(rollouts.token_logprobs, rollouts.advantages)


def clipped_loss(log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    Paper: Schulman et al. 2017, Proximal policy optimization, eq. 7, arXiv:1707.06347; ends apart: DAPO, arXiv:2503.14476.
    Shapes: log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    """
    ratio = clamped_exp(log_ratio)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


@dataclass(frozen=True, kw_only=True)
class Clipped(PolicyGradientLoss):
    """PPO's clipped surrogate; with the weighting it is GRPO, DAPO or Dr. GRPO.

    clip_low: ε_low, how far below 1 a ratio may fall before a token with a negative advantage stops learning.
    clip_high: ε_high, how far above 1 it may rise before a token with a positive advantage stops learning.
    Convention: the log-ratio is clamped to ±20 before exp, as in verl; TRL does not clamp it.
    """

    formula: ClassVar = clipped_loss

    clip_low: float = within(at_least=0, at_most=1, advice=CLIP_LOW)
    clip_high: float = within(at_least=0, advice=CLIP_HIGH)

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] clipped_loss."""
        return clipped_loss(rollouts.log_ratio, rollouts.advantages, clip_low=self.clip_low, clip_high=self.clip_high)


def dual_clip_loss(log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float) -> Tensor:
    """-min(ρ A, clip(ρ) A), and where A < 0 at most -c A.

    Paper: Ye et al. 2020, Mastering complex control in MOBA games (dual-clip PPO), arXiv:1912.09729.
    Shapes: log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    """
    clipped = clipped_loss(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    return torch.where(advantages < 0, torch.minimum(clipped, -dual_clip * advantages), clipped)


@dataclass(frozen=True, kw_only=True)
class DualClip(PolicyGradientLoss):
    """The clipped surrogate that also stops at a ratio c where the advantage is negative, where PPO has no bound.

    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    dual_clip: c, the ratio beyond which a token with a negative advantage stops learning.
    """

    formula: ClassVar = dual_clip_loss

    clip_low: float = within(at_least=0, at_most=1, advice=CLIP_LOW)
    clip_high: float = within(at_least=0, advice=CLIP_HIGH)
    dual_clip: float = within(above=1, advice="it bounds a ratio above 1; 3 is usual")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] dual_clip_loss."""
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high, "dual_clip": self.dual_clip}
        return dual_clip_loss(rollouts.log_ratio, rollouts.advantages, **clips)


def capped_loss(log_ratio: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, ratio_cap: float) -> Tensor:
    """-min(min(ρ, δ) A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    Paper: Prime Intellect 2025, INTELLECT-2, two-sided clipping, arXiv:2505.07291.
    Shapes: log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    """
    ratio = clamped_exp(log_ratio)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio.clamp(max=ratio_cap) * advantages, clipped * advantages)


@dataclass(frozen=True, kw_only=True)
class Capped(PolicyGradientLoss):
    """The clipped surrogate with a cap on the ratio itself: TRL's delta, the two-sided clip of INTELLECT-2.

    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    ratio_cap: δ, the largest ratio there is; above 1 + clip_high it matters only where the advantage is negative.
    Convention: the same as dual_clip wherever ratio_cap >= 1 + clip_high.
    """

    formula: ClassVar = capped_loss

    clip_low: float = within(at_least=0, at_most=1, advice=CLIP_LOW)
    clip_high: float = within(at_least=0, advice=CLIP_HIGH)
    ratio_cap: float = within(above=1, advice="it bounds a ratio above 1; 4 is that of INTELLECT-2")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] capped_loss."""
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high, "ratio_cap": self.ratio_cap}
        return capped_loss(rollouts.log_ratio, rollouts.advantages, **clips)
