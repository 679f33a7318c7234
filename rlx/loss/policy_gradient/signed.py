"""Policy-gradient losses that treat positive and negative advantages differently, beyond the two bounds of PPO's clip.

Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, ρ the ratio of π to the sampling policy.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import clamped_exp, stop_gradient
from rlx.loss.policy_gradient.base import policy_gradient_loss
from rlx.loss.policy_gradient.token import ClipHigh, ClipLow, clipped

Kept = Annotated[float, within(at_least=0, advice="0 drops what the clip drops, as in clipped; 1 keeps the gradient of the end")]


@policy_gradient_loss
def topr(
    token_logprobs: Tensor,
    summed_log_ratio: Tensor,
    advantages: Tensor,
    *,
    ratio_cap: Annotated[float, within(above=0, advice="1 is that of the paper")] = 1.0,
) -> Tensor:
    """-A log π where A > 0, -sg(min(w, c)) A log π elsewhere, w = Π_t ρ_t.

    Tapered off-policy REINFORCE: imitates good completions, and unlearns bad ones only as far as they are still likely.
    Paper: Le Roux et al. 2025, Tapered off-policy REINFORCE (TOPR), arXiv:2503.14286.
    Shapes: token_logprobs log π [B, T], summed_log_ratio log w [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.7.
    ratio_cap: c, the largest weight of a completion with a negative advantage.
    Convention: w is the ratio of the whole completion; a bad completion that the policy no longer produces has no weight.
    """
    weight = torch.where(advantages > 0, 1.0, clamped_exp(summed_log_ratio).clamp(max=ratio_cap))
    return -stop_gradient(weight) * advantages * token_logprobs


@policy_gradient_loss
def aspo(
    token_logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: ClipHigh = 0.2,
    inverse_cap: Annotated[float, within(at_least=1, advice="3 is a start; the paper gives no number")] = 3.0,
) -> Tensor:
    """Where A > 0: -sg(min(1/ρ, c) [ρ <= 1 + ε_high]) A log π; elsewhere -min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A).

    The clipped surrogate with the inverse ratio for positive advantages: tokens whose probability has fallen learn most.
    Paper: Wang et al. 2025, ASPO: asymmetric importance sampling policy optimization, arXiv:2510.06062.
    Shapes: token_logprobs log π [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.93, variance 1.3.
    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    inverse_cap: c, the largest inverse ratio; a token at the cap still learns (the soft dual clip of the paper).
    """
    weight = (1 / ratio).clamp(max=inverse_cap) * (ratio <= 1 + clip_high)
    raised = -stop_gradient(weight) * advantages * token_logprobs
    return torch.where(advantages > 0, raised, clipped.formula(ratio, advantages, clip_low=clip_low, clip_high=clip_high))


@policy_gradient_loss
def dispo(
    token_logprobs: Tensor,
    ratio: Tensor,
    advantages: Tensor,
    *,
    positive_low: ClipLow = 1.0,
    positive_high: ClipHigh = 4.0,
    negative_low: ClipLow = 1.0,
    negative_high: ClipHigh = 4.0,
) -> Tensor:
    """-sg(clamp(ρ, 1 - ε_low, 1 + ε_high)) A log π, both ε by the sign of A.

    CISPO with four bounds: two for tokens with a positive advantage and two for the others.
    Paper: Karaman et al. 2026, DISPO: decoupled clipping of importance weights, arXiv:2602.00983.
    Shapes: token_logprobs log π [B, T], ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.25, variance 1.6.
    positive_low: ε_low for positive advantages; 1 means no lower bound.
    positive_high: ε_high for positive advantages.
    negative_low: ε_low for the other tokens.
    negative_high: ε_high for the other tokens.
    Convention: the defaults are those of cispo for both signs; with them the loss is cispo.
    """
    raised = ratio.clamp(1 - positive_low, 1 + positive_high)
    lowered = ratio.clamp(1 - negative_low, 1 + negative_high)
    return -stop_gradient(torch.where(advantages > 0, raised, lowered)) * advantages * token_logprobs


@policy_gradient_loss
def ce_gppo(
    ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: ClipHigh = 0.2,
    kept_low: Kept = 0.75,
    kept_high: Kept = 1.0,
) -> Tensor:
    """-ρ A, and beyond the clip -β e (ρ / sg(ρ)) A, e the bound exceeded: 1 - ε_low (A < 0) or 1 + ε_high (A > 0).

    The clipped surrogate whose clipped tokens keep a bounded share of their gradient, which controls the entropy.
    Paper: Su et al. 2025, CE-GPPO: gradient-preserving clipping policy optimization, eq. 8, arXiv:2509.20712.
    Shapes: ratio ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.24, variance 1.7.
    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    kept_low: β1, the share kept below the lower bound; a larger one lets the entropy fall faster.
    kept_high: β2, the share kept above the upper bound; a larger one slows the fall of the entropy.
    Convention: 0.75 and 1 are the values of the paper's 7B run; with 0 and 0 the gradient is that of clipped.
    """
    step = ratio / stop_gradient(ratio)
    below, above = (advantages < 0) & (ratio < 1 - clip_low), (advantages > 0) & (ratio > 1 + clip_high)
    held = torch.where(below, kept_low * (1 - clip_low) * step, torch.where(above, kept_high * (1 + clip_high) * step, ratio))
    return -held * advantages
