"""Policy-gradient losses of a token's importance ratio: REINFORCE, PPO's clip, and its two- and three-sided relatives.

Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, log ρ the log-ratio of π to the policy that sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.fields import within
from rlx.loss.policy_gradient.base import PolicyGradientLoss, RolloutLogprobs
from rlx.loss.ratio import clamped_exp, stop_gradient

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


# Policy-gradient losses that weigh REINFORCE by a ratio held constant: no token loses its gradient to a clip of the ratio.


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


# Policy-gradient losses that bend the ratio smoothly where PPO clips it.


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
