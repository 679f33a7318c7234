"""Policy-gradient losses that restrain the few tokens whose log-probability and advantage covary most, as those lower the
entropy most.

Cui et al. 2025, The entropy mechanism of reinforcement learning for reasoning language models, arXiv:2505.22617.
Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, log ρ the log-ratio of π to the policy that sampled.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.fields import within
from rlx.loss.base import clamped_exp
from rlx.loss.policy_gradient.base import policy_gradient_loss
from rlx.loss.policy_gradient.token import ClipHigh, ClipLow, clipped

Share = Annotated[
    float, within(above=0, at_most=1, advice="it is a share of the tokens of the batch; 0.0002 is that of the paper")
]


def token_covariance(token_logprobs: Tensor, advantages: Tensor, completion_mask: Tensor) -> Tensor:
    """(A - mean A) (log π - mean log π), means over the tokens of the batch; -inf outside of the mask. [B, T], no gradient."""
    count = completion_mask.sum().clamp(min=1)
    centred = [values.detach() - (values.detach() * completion_mask).sum() / count for values in (advantages, token_logprobs)]
    return torch.where(completion_mask, centred[0] * centred[1], -torch.inf)


def number_of_tokens(completion_mask: Tensor, share: float) -> int:
    """The number of tokens in a share of the batch; at least one unless the batch has none."""
    tokens = int(completion_mask.sum())
    return min(tokens, max(1, int(share * tokens)))


@policy_gradient_loss(couples_rows=True)
def kl_cov(
    log_ratio: Tensor,
    token_logprobs: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    *,
    share: Share = 0.0002,
    penalty: Annotated[float, within(at_least=0, advice="a negative one would reward drift; 1 is that of the paper")] = 1.0,
) -> Tensor:
    """-ρ A, plus κ |log ρ| at the tokens of largest covariance.

    Not clipped; tokens of largest covariance are penalised for moving away from the sampling policy.
    Paper: Cui et al. 2025, The entropy mechanism (KL-Cov), arXiv:2505.22617.
    Shapes: log_ratio log ρ, token_logprobs log π, advantages, completion_mask (bool): all [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 1.00, variance 0.7.
    share: the share of the batch's tokens that is penalised, at least one token.
    penalty: κ, the strength of the penalty.
    """
    covariance = token_covariance(token_logprobs, advantages, completion_mask)
    held = torch.zeros_like(completion_mask).reshape(-1)
    held[covariance.reshape(-1).topk(number_of_tokens(completion_mask, share)).indices] = True
    return -clamped_exp(log_ratio) * advantages + penalty * log_ratio.abs() * held.reshape(covariance.shape)


def require_band(*, covariance_low: float, covariance_high: float, **_: float) -> None:
    """Raise ConfigError if no token can lie between the two bounds of clip_cov."""
    if covariance_low >= covariance_high:
        raise ConfigError(
            f"covariance_low of clip_cov is {covariance_low} and covariance_high {covariance_high}, "
            "so no token lies between them; 1 and 5 are those of the paper"
        )


@policy_gradient_loss(couples_rows=True, check=require_band)
def clip_cov(
    ratio: Tensor,
    token_logprobs: Tensor,
    advantages: Tensor,
    completion_mask: Tensor,
    rng: torch.Generator,
    *,
    clip_low: ClipLow = 0.2,
    clip_high: ClipHigh = 0.2,
    share: Share = 0.0002,
    covariance_low: Annotated[float, within(advice="1 is that of the paper")] = 1.0,
    covariance_high: Annotated[float, within(advice="5 is that of the paper")] = 5.0,
) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A), and 0 at the tokens dropped.

    The clipped surrogate; a few random tokens of large covariance get no gradient.
    Paper: Cui et al. 2025, The entropy mechanism (Clip-Cov), arXiv:2505.22617.
    Shapes: ratio ρ, token_logprobs log π, advantages, completion_mask (bool): all [B, T] -> [B, T].
    Exact: on policy bias 0.19, variance 1.4; off policy bias 0.85, variance 1.7.
    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    share: the share of the batch's tokens that is dropped, at least one token if any is within the bounds.
    covariance_low: only tokens with a covariance above this may be dropped.
    covariance_high: only tokens with a covariance below this may be dropped.
    Convention: tokens are drawn with `rng`, so the same batch and stream drop the same ones; verl uses the global generator.
    Convention: tokens that the clip already stops are not drawn.
    """
    covariance = token_covariance(token_logprobs, advantages, completion_mask)
    stopped = ((advantages > 0) & (ratio > 1 + clip_high)) | ((advantages < 0) & (ratio < 1 - clip_low))
    eligible = (covariance > covariance_low) & (covariance < covariance_high) & ~stopped
    places = eligible.reshape(-1).nonzero()[:, 0]
    order = torch.randperm(len(places), generator=rng)[: number_of_tokens(completion_mask, share)]
    dropped = torch.zeros_like(completion_mask).reshape(-1)
    dropped[places[order.to(places.device)]] = True
    surrogate = clipped.formula(ratio, advantages, clip_low=clip_low, clip_high=clip_high)
    return surrogate * ~dropped.reshape(covariance.shape)
