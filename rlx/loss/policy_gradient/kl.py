"""KL(policy || reference) at sampled tokens: estimators, and the gradients they can be given.

With d = log π0 - log π at a token that the policy sampled, and ρ the ratio of the policy to the sampling policy:

| estimate | value          | biased?                        | plain gradient, in expectation                     |
| -------- | -------------- | ------------------------------ | -------------------------------------------------- |
| k1       | -d             | no, but high variance          | 0: no learning signal                              |
| k2       | d²/2           | yes, slightly while d is small | that of KL(policy || reference): correct           |
| k3       | e^d - d - 1    | no                             | that of KL(reference || policy): not the KL wanted |
| exact    | over the vocabulary | no, and zero variance     | correct, at the visited states                     |

The correct gradient of k1 and k3 needs the score function: multiply by the importance ratio, or use k2's gradient. With the score
function, k2 would have the gradient of its own biased value, not of the KL: use its plain gradient, which is correct on policy.

As a term of the loss each of them, even exact, is the KL at the visited states: its gradient ignores that a token changes which
states come after it, so it is not the gradient of KL(policy || reference) of whole completions. As a part of the reward
(`rewards_with_kl` with k1, or `token_rewards_with_kl` with k1 and all future rewards) the KL includes that effect.

Schulman 2020, http://joschu.net/blog/kl-approx.html; Tang and Munos 2025, On a few pitfalls in KL divergence gradient estimation,
arXiv:2506.09477. Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rlx.loss.base import LIMIT, clamped_exp, masked, stop_gradient


def k1(token_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log π - log π0. [B, T] -> [B, T]. As a loss term it omits the effect of a token on later states."""
    return token_logprobs - reference_logprobs


def k2(token_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log π - log π0)² / 2. [B, T] -> [B, T]. As a loss term it omits the effect of a token on later states."""
    return (token_logprobs - reference_logprobs) ** 2 / 2


def k3(token_logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """e^d - d - 1, d = log π0 - log π capped at 20, with zero gradient beyond. [B, T] -> [B, T].

    As a loss term it omits the effect of a token on later states.
    """
    difference = (reference_logprobs - token_logprobs).clamp(max=LIMIT)
    return torch.exp(difference) - difference - 1


ESTIMATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}


def plain(estimate: Tensor, k2_estimate: Tensor, token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """The estimate with its own gradient. All [B, T]."""
    del k2_estimate, token_logprobs, behaviour_logprobs
    return estimate


def importance_weighted(estimate: Tensor, k2_estimate: Tensor, token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """ρ · estimate, ρ = π / (sampling policy), gradient through both: correct for k1 and k3, also off policy. All [B, T]."""
    del k2_estimate
    return clamped_exp(token_logprobs - behaviour_logprobs) * estimate


def score_function(estimate: Tensor, k2_estimate: Tensor, token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """The estimate times e^(log π - sg(log π)) = 1: its value, with the score-function gradient added. All [B, T]."""
    del k2_estimate, behaviour_logprobs
    return torch.exp(token_logprobs - stop_gradient(token_logprobs)) * estimate


def straight_through(estimate: Tensor, k2_estimate: Tensor, token_logprobs: Tensor, behaviour_logprobs: Tensor) -> Tensor:
    """The value of the estimate with the gradient of k2, which is correct on policy. All [B, T]."""
    del token_logprobs, behaviour_logprobs
    return k2_estimate + stop_gradient(estimate - k2_estimate)


OF_K2 = ("plain", "straight_through")  # both are the same for k2; the others give the gradient of its biased value
GRADIENTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "plain": plain,
    "importance_weighted": importance_weighted,
    "score_function": score_function,
    "straight_through": straight_through,
}


def token_kl(
    token_logprobs: Tensor, reference_logprobs: Tensor, behaviour_logprobs: Tensor, *, estimator: str, gradient: str
) -> Tensor:
    """The estimate named `estimator` with the gradient named `gradient`. All [B, T]; behaviour is the sampling policy.

    As a loss term it omits the effect of a token on later states.
    """
    reference_logprobs = reference_logprobs.detach()
    estimate = ESTIMATES[estimator](token_logprobs, reference_logprobs)
    return GRADIENTS[gradient](estimate, k2(token_logprobs, reference_logprobs), token_logprobs, behaviour_logprobs.detach())


def rewards_with_kl(
    rewards: Tensor, token_logprobs: Tensor, reference_logprobs: Tensor, completion_mask: Tensor, *, beta: float, estimator: str
) -> Tensor:
    """rewards - β Σ_t estimate_t: the KL as a part of the reward.

    Only for k1 is the expected policy gradient of such a reward that of the KL: an unbiased value is not enough. For k3 it is
    the gradient of KL(policy || reference) minus that of KL(reference || policy).
    rewards: [P, G]; token_logprobs (of the sampling policy), reference_logprobs, completion_mask: [P, G, T]. Returns [P, G].
    """
    estimate = ESTIMATES[estimator](token_logprobs.detach(), reference_logprobs.detach())
    return rewards - beta * masked(estimate, completion_mask).sum(dim=-1).to(rewards.dtype)


def token_rewards_with_kl(
    rewards: Tensor, token_logprobs: Tensor, reference_logprobs: Tensor, completion_mask: Tensor, *, beta: float, estimator: str
) -> Tensor:
    """-β estimate_t at every token, plus the reward at the last one: the input of GAE when the KL is in the reward.

    rewards: [B]; the others [B, T]. Returns [B, T].
    """
    penalties = -beta * masked(ESTIMATES[estimator](token_logprobs.detach(), reference_logprobs.detach()), completion_mask)
    last = completion_mask & (completion_mask.cumsum(dim=-1) == completion_mask.sum(dim=-1, keepdim=True))
    return penalties + torch.where(last, rewards[..., None].to(penalties.dtype), 0.0)
