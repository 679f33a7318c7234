"""Policy-gradient losses that spare the few tokens whose log-probability and advantage covary most: they eat the entropy.

Cui et al. 2025, The entropy mechanism of reinforcement learning for reasoning language models, arXiv:2505.22617.
Dimensions: B sequences, T tokens. Notation: A the advantage, π the policy, log ρ the log-ratio of π to the policy that sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.fields import within
from rlx.loss.policy_gradient.base import PolicyGradientLoss, RolloutLogprobs
from rlx.loss.policy_gradient.token import CLIP_HIGH, CLIP_LOW, clipped_loss
from rlx.loss.ratio import clamped_exp

SHARE = "it is a share of the tokens of the batch; 0.0002 is that of the paper"


def token_covariance(token_logprobs: Tensor, advantages: Tensor, completion_mask: Tensor) -> Tensor:
    """(A - mean A) (log π - mean log π), means over the tokens of the batch; -inf outside of the mask. [B, T], no gradient."""
    count = completion_mask.sum().clamp(min=1)
    centred = [values.detach() - (values.detach() * completion_mask).sum() / count for values in (advantages, token_logprobs)]
    return torch.where(completion_mask, centred[0] * centred[1], -torch.inf)


def number_of_tokens(completion_mask: Tensor, share: float) -> int:
    """How many tokens a share of the batch is: at least one where there is any."""
    tokens = int(completion_mask.sum())
    return min(tokens, max(1, int(share * tokens)))


def kl_cov_loss(log_ratio: Tensor, advantages: Tensor, chosen: Tensor, *, penalty: float) -> Tensor:
    """-ρ A, plus κ |log ρ| at the tokens of largest covariance.

    Paper: Cui et al. 2025, The entropy mechanism (KL-Cov), arXiv:2505.22617.
    Shapes: log_ratio log ρ [B, T], advantages [B, T], chosen bool [B, T] -> [B, T].
    """
    return -clamped_exp(log_ratio) * advantages + penalty * log_ratio.abs() * chosen


@dataclass(frozen=True, kw_only=True)
class KlCov(PolicyGradientLoss):
    """No clip; the tokens of largest covariance are held to the policy that sampled.

    share: the share of the batch's tokens that is held, at least one token.
    penalty: κ, how strongly.
    """

    formula: ClassVar = kl_cov_loss
    couples_rows: ClassVar[bool] = True

    share: float = within(above=0, at_most=1, advice=SHARE)
    penalty: float = within(at_least=0, advice="a negative one would reward drift; 1 is that of the paper")

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] kl_cov_loss."""
        covariance = token_covariance(rollouts.token_logprobs, rollouts.advantages, rollouts.completion_mask)
        chosen = torch.zeros_like(rollouts.completion_mask).reshape(-1)
        chosen[covariance.reshape(-1).topk(number_of_tokens(rollouts.completion_mask, self.share)).indices] = True
        return kl_cov_loss(rollouts.log_ratio, rollouts.advantages, chosen.reshape(covariance.shape), penalty=self.penalty)


def clip_cov_loss(log_ratio: Tensor, advantages: Tensor, dropped: Tensor, *, clip_low: float, clip_high: float) -> Tensor:
    """-min(ρ A, clip(ρ, 1 - ε_low, 1 + ε_high) A), and 0 at the tokens dropped.

    Paper: Cui et al. 2025, The entropy mechanism (Clip-Cov), arXiv:2505.22617.
    Shapes: log_ratio log ρ [B, T], advantages [B, T], dropped bool [B, T] -> [B, T].
    """
    return clipped_loss(log_ratio, advantages, clip_low=clip_low, clip_high=clip_high) * ~dropped


@dataclass(frozen=True, kw_only=True)
class ClipCov(PolicyGradientLoss):
    """The clipped surrogate; a few random tokens of large covariance get no gradient.

    clip_low: ε_low, as in clipped.
    clip_high: ε_high, as in clipped.
    share: the share of the batch's tokens that is dropped, at least one token if any is within the bounds.
    covariance_low: only tokens of a larger covariance than this may be dropped.
    covariance_high: only tokens of a smaller one.
    Convention: the tokens are drawn with `rng`, so the same batch and stream drop the same; verl draws from the global generator.
    Convention: tokens that the clip stops anyway are not drawn.
    """

    formula: ClassVar = clip_cov_loss
    requires: ClassVar[frozenset[str]] = frozenset({"rng"})
    couples_rows: ClassVar[bool] = True

    clip_low: float = within(at_least=0, at_most=1, advice=CLIP_LOW)
    clip_high: float = within(at_least=0, advice=CLIP_HIGH)
    share: float = within(above=0, at_most=1, advice=SHARE)
    covariance_low: float = within(advice="1 is that of the paper")
    covariance_high: float = within(advice="5 is that of the paper")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.covariance_low >= self.covariance_high:
            raise ConfigError(
                f"covariance_low of ClipCov is {self.covariance_low} and covariance_high {self.covariance_high}, "
                "so no token lies between them; 1 and 5 are those of the paper"
            )

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] clip_cov_loss."""
        clips = {"clip_low": self.clip_low, "clip_high": self.clip_high}
        return clip_cov_loss(rollouts.log_ratio, rollouts.advantages, self._dropped(rollouts), **clips)

    def _dropped(self, rollouts: RolloutLogprobs) -> Tensor:
        """bool [B, T] random tokens within the bounds."""
        assert rollouts.rng is not None
        covariance = token_covariance(rollouts.token_logprobs, rollouts.advantages, rollouts.completion_mask)
        ratio = clamped_exp(rollouts.log_ratio)
        too_high = (rollouts.advantages > 0) & (ratio > 1 + self.clip_high)
        too_low = (rollouts.advantages < 0) & (ratio < 1 - self.clip_low)
        eligible = (covariance > self.covariance_low) & (covariance < self.covariance_high) & ~too_high & ~too_low
        places = eligible.reshape(-1).nonzero()[:, 0]
        order = torch.randperm(len(places), generator=rollouts.rng)[: number_of_tokens(rollouts.completion_mask, self.share)]
        dropped = torch.zeros_like(rollouts.completion_mask).reshape(-1)
        dropped[places[order.to(places.device)]] = True
        return dropped.reshape(covariance.shape)
