"""Policy-gradient losses that use the importance ratio of single tokens: REINFORCE, PPO's clip, and variants.

Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, log ρ the log-ratio of π to the sampling policy.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import stop_gradient
from rlx.loss.policy_gradient.base import policy_gradient_loss
from rlx.loss.weight import sequence_mean

ClipLow = Annotated[
    float, within(at_least=0, at_most=1, advice="a ratio is never below 0, so 1 means no lower clip; 0.2 is usual")
]
ClipHigh = Annotated[float, within(at_least=0, advice="0.2 is usual, 0.28 that of DAPO")]
HIGHEST_END = 10.0  # the largest upper clip bound of dcpo
RatioCap = Annotated[float, within(above=0, advice="20 is usual")]


@policy_gradient_loss
def reinforce(token_logprobs: Tensor, advantages: Tensor) -> Tensor:
    """-A log π.

    The plain policy gradient: correct on policy, without a correction once the policy has moved.
    Paper: Williams 1992, Simple statistical gradient-following algorithms, doi:10.1007/BF00992696; as in GPG, arXiv:2504.02546.
    Shapes: token_logprobs [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.6.
    Convention: its value is not an objective and may have any sign; only its gradient is meaningful.
    """
    return -advantages * token_logprobs


@policy_gradient_loss
def clipped(ratio: Tensor, advantages: Tensor, *, clip_low: ClipLow = 0.2, clip_high: ClipHigh = 0.2) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    PPO's clipped surrogate; the weighting makes it GRPO, DAPO or Dr. GRPO.
    Paper: Schulman et al. 2017, Proximal policy optimization, eq. 7, arXiv:1707.06347; two bounds: DAPO, arXiv:2503.14476.
    Shapes: ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.85, variance 1.7.
    clip_low: ε_low, how far below 1 a ratio may fall before a token with a negative advantage stops learning.
    clip_high: ε_high, how far above 1 it may rise before a token with a positive advantage stops learning.
    Convention: the log-ratio is clamped to ±20 before exp, as in verl; TRL does not clamp it.
    """
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


@policy_gradient_loss
def dual_clip(
    ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: ClipHigh = 0.2,
    dual_clip: Annotated[float, within(above=1, advice="it bounds a ratio above 1; 3 is usual")] = 3.0,
) -> Tensor:
    """-min(ρ A, clip(ρ) A), and where A < 0 at most -c A.

    The clipped surrogate that, for negative advantages, also stops at a ratio c; PPO has no bound there.
    Paper: Ye et al. 2020, Mastering complex control in MOBA games (dual-clip PPO), arXiv:1912.09729.
    Shapes: ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.85, variance 1.7.
    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    dual_clip: c, the ratio beyond which a token with a negative advantage stops learning.
    """
    once = clipped.formula(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    return torch.where(advantages < 0, torch.minimum(once, -dual_clip * advantages), once)


@policy_gradient_loss
def capped(
    ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: ClipHigh = 0.2,
    ratio_cap: Annotated[float, within(above=1, advice="it bounds a ratio above 1; 4 is that of INTELLECT-2")] = 4.0,
) -> Tensor:
    """-min(min(ρ, δ) A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    The clipped surrogate with a cap on the ratio itself: TRL's delta, the two-sided clip of INTELLECT-2.
    Paper: Prime Intellect 2025, INTELLECT-2, two-sided clipping, arXiv:2505.07291.
    Shapes: ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.85, variance 1.7.
    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    ratio_cap: δ, the largest ratio; above 1 + clip_high it matters only for negative advantages.
    Convention: the same as dual_clip if ratio_cap >= 1 + clip_high.
    """
    return -torch.minimum(ratio.clamp(max=ratio_cap) * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)


@policy_gradient_loss
def dcpo(
    ratio: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    *,
    width_low: Annotated[float, within(at_least=0, advice="0.16 is a start")] = 0.16,
    width_high: Annotated[float, within(at_least=0, advice="0.2 is a start")] = 0.2,
) -> Tensor:
    """-min(ρ A, clip(ρ, low, high) A), low = ½ + ½ √max(1 - 4 ε_low / q, 0), high = min(½ + ½ √(1 + 4 ε_high / q), 10).

    The clipped surrogate whose bounds depend on q, the token's probability when sampled: unlikely tokens may move further.
    Paper: Yang et al. 2025, DCPO: dynamic clipping policy optimization, arXiv:2509.02333.
    Shapes: ratio ρ [B, T], behaviour_logprobs log q [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.26, variance 1.6.
    width_low: ε_low, the largest ρ |ρ - 1| q for ratios ρ below 1.
    width_high: ε_high, the largest ρ |ρ - 1| q for ratios ρ above 1.
    Convention: the upper bound is at most 10, as in the paper.
    Convention: the dynamic clip alone; the paper's smoothed advantages over steps are not part of it.
    """
    probability = torch.exp(behaviour_logprobs)
    low = 0.5 + 0.5 * torch.sqrt((1 - 4 * width_low / probability).clamp(min=0))
    high = (0.5 + 0.5 * torch.sqrt(1 + 4 * width_high / probability)).clamp(max=HIGHEST_END)
    return -torch.minimum(ratio * advantages, torch.minimum(torch.maximum(ratio, low), high) * advantages)


# REINFORCE weighted by a detached ratio: clipping the ratio does not remove a token's gradient.


@policy_gradient_loss
def cispo_band(
    token_logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, clip_low: ClipLow = 0.2, clip_high: ClipHigh = 0.2
) -> Tensor:
    """-sg(clamp(ρ, 1 - ε_low, 1 + ε_high)) A log π.

    CISPO with the ratio clamped to a band around 1.
    Paper: MiniMax 2025, MiniMax-M1 (CISPO), arXiv:2506.13585.
    Shapes: token_logprobs log π [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.6.
    clip_low: ε_low, how far below 1 the weight may fall; 1 means no lower bound, as in the paper.
    clip_high: ε_high, how far above 1 the weight may rise.
    Convention: verl and NeMo RL use this band; TRL's epsilon_high is the absolute cap of cispo_cap.
    """
    return -stop_gradient(ratio.clamp(1 - clip_low, 1 + clip_high)) * advantages * token_logprobs


@policy_gradient_loss
def cispo_cap(
    token_logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    *,
    ratio_cap: Annotated[float, within(above=0, advice="5 is usual")] = 5.0,
) -> Tensor:
    """-sg(min(ρ, c)) A log π.

    CISPO with an absolute cap on the ratio and no lower bound.
    Paper: MiniMax 2025, MiniMax-M1 (CISPO), arXiv:2506.13585.
    Shapes: token_logprobs log π [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.6.
    ratio_cap: c, the largest weight a token can have.
    Convention: TRL uses this cap (its epsilon_high); verl and NeMo RL use the band of cispo_band.
    """
    return -stop_gradient(ratio.clamp(max=ratio_cap)) * advantages * token_logprobs


@policy_gradient_loss
def dppo_tv(
    token_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    *,
    divergence_low: Annotated[
        float, within(at_least=0, at_most=1, advice="a probability changes by 1 at most; 0.2 is usual")
    ] = 0.2,
    divergence_high: Annotated[
        float, within(at_least=0, at_most=1, advice="a probability changes by 1 at most; 0.2 is usual")
    ] = 0.2,
    ratio_cap: RatioCap = 20.0,
) -> Tensor:
    """-A sg(min(ρ, c)) log π where π - π_s <= high (A > 0) or >= -low (elsewhere), 0 for the other tokens.

    REINFORCE with a truncated ratio, within a trust region on the change of the token's probability (total variation).
    Paper: Qi et al. 2026, Rethinking the trust region in LLM reinforcement learning (DPPO), arXiv:2602.04879.
    Shapes: token_logprobs log π [B, T], behaviour_logprobs log π_s [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.6.
    divergence_low: how much a token's probability may fall if the advantage is not positive.
    divergence_high: how much it may rise if the advantage is positive.
    ratio_cap: c, the largest weight a token can have.
    """
    difference = torch.exp(token_logprobs) - torch.exp(behaviour_logprobs)
    region = torch.where(advantages > 0, difference <= divergence_high, difference >= -divergence_low)
    return -stop_gradient(ratio.clamp(max=ratio_cap) * region) * advantages * token_logprobs


def binary_kl(token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """KL(π_s || π) of the sampled token against all others: p log(p/q) + (1-p) log((1-p)/(1-q)). All [B, T] -> [B, T]."""
    sampled, policy = torch.exp(behaviour_logprobs), torch.exp(token_logprobs)
    others = torch.log((1 - sampled + 1e-8) / (1 - policy + 1e-8))  # 1e-8 keeps a certain token finite
    return sampled * (behaviour_logprobs - token_logprobs) + (1 - sampled) * others


@policy_gradient_loss
def dppo_kl(
    token_logprobs: Tensor,
    behaviour_logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    *,
    divergence_low: Annotated[float, within(at_least=0, advice="0.05 is usual")] = 0.05,
    divergence_high: Annotated[float, within(at_least=0, advice="0.05 is usual")] = 0.05,
    ratio_cap: RatioCap = 20.0,
) -> Tensor:
    """-A sg(min(ρ, c)) log π where the binary KL is <= high (A > 0) or low (elsewhere) or A draws it back, else 0.

    REINFORCE with a truncated ratio, within a trust region on the binary KL of a token.
    Paper: Qi et al. 2026, Rethinking the trust region in LLM reinforcement learning (DPPO), arXiv:2602.04879.
    Shapes: token_logprobs log π [B, T], behaviour_logprobs log π_s [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.26, variance 1.6.
    divergence_low: the largest binary KL at which a token with a non-positive advantage still learns.
    divergence_high: the largest binary KL at which a token with a positive advantage still learns.
    ratio_cap: c, the largest weight a token can have.
    """
    distance, rising = binary_kl(token_logprobs, behaviour_logprobs), token_logprobs - behaviour_logprobs
    going_up, going_down = (distance <= divergence_high) | (rising <= 0), (distance <= divergence_low) | (rising >= 0)
    region = torch.where(advantages > 0, going_up, going_down)
    return -stop_gradient(ratio.clamp(max=ratio_cap) * region) * advantages * token_logprobs


# Smooth functions of the ratio instead of PPO's clip.


@policy_gradient_loss(weighting=sequence_mean())
def sapo(
    ratio: Tensor,
    advantages: Tensor,
    *,
    temperature_positive: Annotated[float, within(above=0, advice="1 is usual")] = 1.0,
    temperature_negative: Annotated[float, within(above=0, advice="1.05 is usual")] = 1.05,
) -> Tensor:
    """-(4/τ) σ(τ (ρ - 1)) A, τ by the sign of A.

    A sigmoid gate of the ratio: its gradient is that of ρ A at ρ = 1 and fades on both sides.
    Paper: Gao et al. 2025, Soft adaptive policy optimization (SAPO), arXiv:2511.20347.
    Shapes: ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.46, variance 1.1; off policy bias 0.48, variance 1.2.
    temperature_positive: τ for positive advantages; a larger one makes the gradient fade sooner.
    temperature_negative: τ for the other tokens; larger in the paper, as those tokens are less stable.
    Convention: its value at ρ = 1 is -2 A / τ, not -A; only its gradient agrees with the other losses there.
    """
    one = advantages.new_ones(())
    temperature = torch.where(advantages > 0, one * temperature_positive, one * temperature_negative)
    return -4 / temperature * torch.sigmoid(temperature * (ratio - 1)) * advantages


@policy_gradient_loss
def dro(
    token_logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    tau: Annotated[float, within(at_least=0, advice="a negative one would reward drift; 0.05 is usual")] = 0.05,
) -> Tensor:
    """-(A log π - τ/2 (log ρ)²).

    REINFORCE with a squared penalty on the log-ratio to the sampling policy: not clipped, and correct off policy.
    Paper: Richemond et al. 2024, Offline regularised reinforcement learning (DRO), arXiv:2405.19107.
    Shapes: token_logprobs log π [B, T], log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.27, variance 1.7.
    tau: τ, how strongly the policy is held to the sampling policy (verl's beta; here beta is the KL to the reference).
    """
    return -(advantages * token_logprobs - tau / 2 * log_ratio**2)
