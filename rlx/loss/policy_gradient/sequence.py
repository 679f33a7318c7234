"""Policy-gradient losses that use the importance ratio of the whole sequence.

Each token has the value of its sequence, so the weights decide how much a sequence counts.
Dimensions: B sequences, T tokens. Notation: A the advantage, log ρ_t the log-ratio at token t of the policy to the sampling
policy, n the length of the sequence.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import LIMIT, clamped_exp, stop_gradient
from rlx.loss.policy_gradient.base import mean_over_tokens, policy_gradient_loss
from rlx.loss.policy_gradient.token import clipped
from rlx.loss.weight import sequence_mean, sequence_sum


@policy_gradient_loss(weighting=sequence_mean())
def gspo(
    mean_log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: Annotated[float, within(at_least=0, at_most=1, advice="3e-4 is that of the paper")] = 3e-4,
    clip_high: Annotated[float, within(at_least=0, advice="4e-4 is that of the paper")] = 4e-4,
) -> Tensor:
    """-min(s A, clip(s, 1 - ε_low, 1 + ε_high) A), s = exp(Σ_t log ρ_t / n).

    The clipped surrogate on the geometric mean of a sequence's ratios; summed over tokens it is LUSPO.
    Paper: Zheng et al. 2025, Group sequence policy optimization (GSPO), eq. 5 and 7, arXiv:2507.18071.
    Shapes: mean_log_ratio [B, T], the same at each token of a sequence, advantages [B, T] -> [B, T].
    Exact: on policy bias 0.46, variance 1.1; off policy bias 1.00, variance 1.1.
    clip_low: ε_low; much smaller than for tokens, as the mean of log-ratios moves little.
    clip_high: ε_high, likewise.
    Convention: the gradient flows through the mean, as in TRL; verl's token form has the same gradient if all tokens of a
        sequence share one advantage.
    """
    return clipped.formula(clamped_exp(mean_log_ratio), advantages, clip_low=clip_low, clip_high=clip_high)


@policy_gradient_loss(weighting=sequence_mean())
def gspo_token(
    mean_log_ratio: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: Annotated[float, within(at_least=0, at_most=1, advice="3e-4 is that of the paper")] = 3e-4,
    clip_high: Annotated[float, within(at_least=0, advice="4e-4 is that of the paper")] = 4e-4,
) -> Tensor:
    """-min(s A, clip(s, 1 - ε_low, 1 + ε_high) A), s = sg(exp(Σ_t log ρ_t / n)) ρ_t / sg(ρ_t).

    GSPO for advantages that differ within a sequence: the ratio is the sequence's, the gradient the token's.
    Paper: Zheng et al. 2025, Group sequence policy optimization (GSPO-token), section 4.3, arXiv:2507.18071.
    Shapes: mean_log_ratio [B, T], the same at each token of a sequence, log_ratio log ρ [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.46, variance 1.1; off policy bias 1.00, variance 1.1.
    clip_low: ε_low, as in gspo.
    clip_high: ε_high, as in gspo.
    Convention: its value and gradient equal those of gspo if all tokens of a sequence share one advantage.
    """
    step = torch.exp(log_ratio - stop_gradient(log_ratio))
    sequence_ratio = stop_gradient(clamped_exp(mean_log_ratio)) * step
    return clipped.formula(sequence_ratio, advantages, clip_low=clip_low, clip_high=clip_high)


@policy_gradient_loss(weighting=sequence_sum())
def opmd(
    summed_log_ratio: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    tau: Annotated[float, within(above=0, advice="the target log-ratio is A / tau; 1 is a start")] = 1.0,
) -> Tensor:
    """(Ā - τ log w)² / (2 τ n), w = Π_t ρ_t, Ā the mean of A and n the tokens of the sequence.

    Online policy mirror descent: regresses the log-ratio of the whole completion to its advantage divided by τ.
    Paper: Kimi team 2025, Kimi k1.5, section 2.3.2, arXiv:2501.12599.
    Shapes: summed_log_ratio log w [B, T], advantages [B, T], completion_mask bool [B, T] -> [B, T].
    Exact: on policy bias 0.00, variance 1.8; off policy bias 1.00, variance 0.9.
    tau: τ, how strongly the policy is held to the sampling policy.
    Convention: divided by 2 τ n, so that, summed over tokens, its on-policy gradient is that of reinforce.
    Convention: take advantage=group_centered for the paper's r - mean r. dro is the same idea for single tokens.
    """
    lengths = completion_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return (mean_over_tokens(advantages, completion_mask) - tau * summed_log_ratio) ** 2 / (2 * tau * lengths)


@policy_gradient_loss(weighting=sequence_mean(), clips_log_ratio=True)
def gmpo(
    log_ratio: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    clip_low: Annotated[float, within(at_least=0, advice="0.4 is that of the paper")] = 0.4,
    clip_high: Annotated[float, within(at_least=0, advice="0.4 is that of the paper")] = 0.4,
) -> Tensor:
    """-Ā exp(Σ_t clipped log ρ_t / n), clipped log ρ = sgn(A) min(sgn(A) log ρ, sgn(A) clamp(log ρ, -ε_low, ε_high)).

    The geometric mean of the token ratios, each first clipped in log space.
    Paper: Zhao et al. 2025, Geometric-mean policy optimization (GMPO), arXiv:2507.20673.
    Shapes: log_ratio log ρ [B, T], advantages [B, T], completion_mask bool [B, T] -> [B, T].
    Exact: on policy bias 0.46, variance 1.1; off policy bias 0.49, variance 1.1.
    clip_low: ε_low, how far a token's log-ratio may fall below 0 if the advantage is negative.
    clip_high: ε_high, how far it may rise above 0 if the advantage is positive.
    Convention: the bounds are on the log-ratio, not the ratio: the paper's (e^-0.4, e^0.4) is 0.4 and 0.4 here.
    """
    sign = torch.sign(advantages)
    held = sign * torch.minimum(sign * log_ratio, sign * log_ratio.clamp(-clip_low, clip_high))
    return -mean_over_tokens(advantages, completion_mask) * clamped_exp(mean_over_tokens(held, completion_mask))


@policy_gradient_loss
def vespo(
    token_logprobs: Tensor,
    summed_log_ratio: Tensor,
    advantages: Tensor,
    *,
    shape_positive: Annotated[float, within(at_least=0, advice="2 is that of the paper")] = 2.0,
    rate_positive: Annotated[float, within(above=0, advice="3 is that of the paper")] = 3.0,
    shape_negative: Annotated[float, within(at_least=0, advice="3 is that of the paper")] = 3.0,
    rate_negative: Annotated[float, within(above=0, advice="2 is that of the paper")] = 2.0,
) -> Tensor:
    """-sg(φ(w)) A log π, φ(w) = exp(λ + k log w - λ w), w = Π_t ρ_t; k and λ by the sign of A.

    REINFORCE weighted by a smooth bump function of the whole sequence's ratio instead of a clip; φ(1) = 1.
    Paper: Shen et al. 2026, VESPO: variational sequence-level soft policy optimization, arXiv:2602.10693.
    Shapes: token_logprobs [B, T], summed_log_ratio log w [B, T], advantages [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.51, variance 2.0.
    shape_positive: k for advantages of at least 0: how fast the weight falls as the ratio goes to 0.
    rate_positive: λ for advantages of at least 0: how fast the weight falls as the ratio grows.
    shape_negative: k for negative advantages.
    rate_negative: λ for negative advantages.
    Convention: each log ρ_t is clamped to ±20 before the sum, and the sum to [log 1e-8, 20], as in TRL.
    """
    positive, one = advantages >= 0, advantages.new_ones(())
    shape = torch.where(positive, one * shape_positive, one * shape_negative)
    rate = torch.where(positive, one * rate_positive, one * rate_negative)
    log_weight = summed_log_ratio.clamp(math.log(1e-8), LIMIT)
    weight = torch.exp(rate + shape * log_weight - rate * torch.exp(log_weight))
    return -stop_gradient(weight) * advantages * token_logprobs
