"""Modifiers of policy-gradient losses for stale or mismatched samples: they scale the surrogate of a token by a constant.

Sampler and trainer compute slightly different log-probabilities for the same policy. `proximal_logprobs` are the trainer's at
the time of sampling: the loss takes its ratio to them, and exp(proximal - sampling) corrects for the difference.
Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.fields import one_of, within
from rlx.loss.base import clamped_exp, masked
from rlx.loss.policy_gradient.base import PolicyGradientModifier, RolloutLogprobs


def truncated_correction(log_correction: Tensor, *, cap: float) -> Tensor:
    """min(e^x, cap), x = proximal - sampling log-probability (truncated importance sampling). [B, T] -> [B, T]."""
    return clamped_exp(log_correction).clamp(max=cap)


def masked_correction(log_correction: Tensor, *, low: float, high: float) -> Tensor:
    """e^x where it lies within [low, high], else 0: Ling Team 2025, IcePop, arXiv:2510.18855. [B, T] -> [B, T]."""
    correction = clamped_exp(log_correction)
    return correction * ((correction >= low) & (correction <= high))


def sequence_region(rollouts: RolloutLogprobs, log_correction: Tensor, *, low: float, high: float) -> Tensor:
    """1 at the tokens of sequences whose geometric mean of e^x lies within [low, high], else 0. [B, T] -> [B, T]."""
    mean = clamped_exp(rollouts.mean_over_tokens(log_correction))
    return ((mean >= low) & (mean <= high)).to(log_correction.dtype)


def sequence_truncated_correction(log_correction: Tensor, completion_mask: Tensor, *, over: str, cap: float) -> Tensor:
    """min(e^X, cap), X the sum (product) or the mean (geometric) of x over the sequence. [B, T], [B, T] -> [B, T]."""
    total = masked(log_correction, completion_mask).sum(dim=-1, keepdim=True)
    lengths = completion_mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return clamped_exp(total if over == "product" else total / lengths).clamp(max=cap).expand_as(log_correction)


def stale_negatives(rollouts: RolloutLogprobs, *, threshold: float) -> Tensor:
    """bool [B, T]: tokens of negative advantage in sequences whose mean log-probability has fallen by more than `threshold`
    nats since sampling.

    DeepSeek-AI 2025, DeepSeek-V3.2, off-policy sequence masking, arXiv:2512.02556.
    """
    fallen = rollouts.mean_over_tokens(rollouts.sampling_logprobs - rollouts.token_logprobs.detach())
    return (rollouts.advantages < 0) & (fallen > threshold)


@dataclass(frozen=True, kw_only=True)
class _Correction(PolicyGradientModifier):
    requires: ClassVar[frozenset[str]] = frozenset({"proximal_logprobs"})

    def log_correction(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] log of the trainer's probability over the sampler's, both of the policy that drew the batch."""
        assert rollouts.proximal_logprobs is not None
        return masked(rollouts.proximal_logprobs - rollouts.sampling_logprobs, rollouts.completion_mask)


@dataclass(frozen=True, kw_only=True)
class TruncatedCorrection(_Correction):
    """Importance correction between sampler and trainer, truncated (TIS).

    cap: the largest correction.
    """

    formula: ClassVar = truncated_correction

    cap: float = within(at_least=1, advice="2 is usual")

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] truncated_correction."""
        return truncated_correction(self.log_correction(rollouts), cap=self.cap)


@dataclass(frozen=True, kw_only=True)
class _Band(_Correction):
    low: float = within(at_least=0, at_most=1, advice="the band must hold 1, where sampler and trainer agree")
    high: float = within(at_least=1, advice="the band must hold 1, where sampler and trainer agree")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low == self.high:
            raise ConfigError(f"low and high of {type(self).__name__} are both {self.low}; a band needs width")


@dataclass(frozen=True, kw_only=True)
class MaskedCorrection(_Band):
    """Importance correction between sampler and trainer that drops tokens outside of a band (IcePop).

    low: lower end of the band.
    high: upper end of the band.
    """

    formula: ClassVar = masked_correction

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] masked_correction."""
        return masked_correction(self.log_correction(rollouts), low=self.low, high=self.high)


@dataclass(frozen=True, kw_only=True)
class SequenceMaskedCorrection(_Band):
    """Importance correction between sampler and trainer that drops sequences whose geometric mean lies outside of a band.

    low: lower end of the band.
    high: upper end of the band.
    """

    formula: ClassVar = sequence_region

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] sequence_region times the correction of the token."""
        correction = self.log_correction(rollouts)
        return clamped_exp(correction) * sequence_region(rollouts, correction, low=self.low, high=self.high)


@dataclass(frozen=True, kw_only=True)
class SequenceTruncatedCorrection(_Correction):
    """Truncated importance correction between sampler and trainer for whole sequences: min(e^X, cap) at each token.

    over: is X the sum of the token corrections (product) or their mean (geometric)? The product is the exact correction.
    cap: the largest correction.
    """

    formula: ClassVar = sequence_truncated_correction

    over: str = one_of(("product", "geometric"), default="product")
    cap: float = within(at_least=1, advice="2 is usual")

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] sequence_truncated_correction."""
        correction = self.log_correction(rollouts)
        return sequence_truncated_correction(correction, rollouts.completion_mask, over=self.over, cap=self.cap)


@dataclass(frozen=True, kw_only=True)
class StaleNegativeMask(PolicyGradientModifier):
    """Off-policy sequence masking: drops bad completions that the policy has already moved away from.

    threshold: the mean fall in token log-probability (an estimate of the KL) beyond which a sequence is dropped.
    """

    formula: ClassVar = stale_negatives

    threshold: float = within(at_least=0, advice="it is a mean of log-ratios; 0.1 is a start")

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] 0 at stale_negatives, 1 elsewhere."""
        return torch.where(stale_negatives(rollouts, threshold=self.threshold), 0.0, torch.ones_like(rollouts.token_logprobs))


# Modifiers that read the policy's entropy at each token.


def high_entropy_tokens(entropy: Tensor, completion_mask: Tensor, *, share: float) -> Tensor:
    """bool [B, T]: the `share` of the batch's tokens with the highest entropy, including ties with the last one.

    Wang et al. 2025, Beyond the 80/20 rule, arXiv:2506.01939. entropy, completion_mask: [B, T].
    """
    values = entropy.detach()[completion_mask]
    if len(values) == 0:
        return completion_mask
    # Sorts, as torch.quantile refuses more than 16 million values; the interpolation is the same.
    place = (1 - share) * (len(values) - 1)
    ordered = values.sort().values
    low, high = ordered[int(place)], ordered[min(int(place) + 1, len(values) - 1)]
    return completion_mask & (entropy.detach() >= low + (high - low) * (place - int(place)))


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(PolicyGradientModifier):
    """Adds minus coefficient times entropy at each token, which keeps the policy from collapsing.

    coefficient: the bonus per nat of entropy.
    Convention: it is averaged with the weights of the loss; TRL always takes the mean over tokens.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"entropy"})

    coefficient: float = within(at_least=0, advice="a negative one would punish entropy; 0.001 is usual")

    def addition(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] -coefficient · entropy."""
        assert rollouts.entropy is not None
        return -self.coefficient * rollouts.entropy


@dataclass(frozen=True, kw_only=True)
class HighEntropyTokens(PolicyGradientModifier):
    """Only the tokens with the highest entropy learn.

    share: the share of the batch's tokens that learn; 1 means all.
    Convention: the mean is still over all tokens, as in TRL, so a smaller share gives a smaller gradient.
    """

    formula: ClassVar = high_entropy_tokens
    requires: ClassVar[frozenset[str]] = frozenset({"entropy"})
    couples_rows: ClassVar[bool] = True

    share: float = within(above=0, at_most=1, advice="0.2 is that of the paper")

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] 1 at high_entropy_tokens, 0 elsewhere."""
        assert rollouts.entropy is not None
        chosen = high_entropy_tokens(rollouts.entropy, rollouts.completion_mask, share=self.share)
        return chosen.to(torch.promote_types(rollouts.token_logprobs.dtype, torch.float32))
