"""Modifiers of preference losses: they change the log-probabilities before a formula, or weight the pairs after it.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import within
from rlx.loss.base import masked
from rlx.loss.preference.base import PreferenceModifier
from rlx.loss.preference.pairs import PairLogprobs


def length_desensitized(pairs: PairLogprobs, *, alpha: float) -> PairLogprobs:
    """Multiply the token log-probabilities beyond the length of a pair's shorter completion by alpha.

    Liu et al. 2024, Length desensitization in DPO (LD-DPO), arXiv:2409.06411. Lengths stay as they are.
    """
    shared = torch.minimum(pairs.chosen_mask.sum(dim=1), pairs.rejected_mask.sum(dim=1))[:, None]

    def scaled(values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask.cumsum(dim=1) > shared, alpha * masked(values, mask), masked(values, mask))

    return replace(pairs, chosen=scaled(pairs.chosen, pairs.chosen_mask), rejected=scaled(pairs.rejected, pairs.rejected_mask))


@dataclass(frozen=True, kw_only=True)
class LengthDesensitized(PreferenceModifier):
    """LD-DPO: tokens of the longer completion beyond the length of the shorter one count less; applies to every preference loss.

    alpha: weight of those tokens; 1 changes nothing, 0 ignores them.
    """

    formula: ClassVar = length_desensitized

    alpha: float = within(at_least=0, at_most=1, advice="1 changes nothing, 0 ignores what exceeds the shorter completion")

    def logprobs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[PairLogprobs, PairLogprobs | None]:
        """Change the log-probabilities of policy and reference in the same way."""
        reference = None if reference is None else length_desensitized(reference, alpha=self.alpha)
        return length_desensitized(policy, alpha=self.alpha), reference


def policy_likelihood_weight(token_logprobs: Tensor, sum_p_squared: Tensor, mask: Tensor) -> Tensor:
    """exp(mean_t (log p_t - log Σ_v p_v²)): how likely the policy is to sample such a completion. All [B, T] -> [B].

    Zhou et al. 2024, WPO: enhancing RLHF with weighted preference optimization, eq. 2, arXiv:2406.11827.
    """
    # Values outside of the mask are arbitrary; a 0 there would have an infinite log.
    aligned = masked(token_logprobs, mask) - torch.log(torch.where(mask, sum_p_squared, 1.0))
    return torch.exp((aligned.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).clamp(max=20))


@dataclass(frozen=True, kw_only=True)
class PolicyWeighting(PreferenceModifier):
    """WPO: weights each pair by how likely the policy finds both completions; the weight is detached.

    Applies to every loss that does not couple the pairs of a batch.
    """

    formula: ClassVar = policy_likelihood_weight
    requires: ClassVar[frozenset[str]] = frozenset({"sum_p_squared"})
    weighs_rows: ClassVar[bool] = True

    def row_weight(self, policy: PairLogprobs) -> Tensor:
        """[B] the product of the weights of the two completions."""
        chosen, rejected = policy.chosen_sum_p_squared, policy.rejected_sum_p_squared
        if chosen is None or rejected is None:
            raise ShapeError("PolicyWeighting needs chosen_sum_p_squared and rejected_sum_p_squared, which these pairs lack")
        of_chosen = policy_likelihood_weight(policy.chosen, chosen, policy.chosen_mask)
        return of_chosen * policy_likelihood_weight(policy.rejected, rejected, policy.rejected_mask)


@dataclass(frozen=True, kw_only=True)
class ReferenceFree(PreferenceModifier):
    """A uniform reference: log-probabilities replace log-ratios; applies to every loss with a reference."""

    removes_reference: ClassVar[bool] = True

    def logprobs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[PairLogprobs, PairLogprobs | None]:
        """Replace the reference by one whose log-probabilities are all 0."""
        del reference
        zeros = {"chosen": torch.zeros_like(policy.chosen), "rejected": torch.zeros_like(policy.rejected)}
        if policy.mismatched is not None:
            zeros["mismatched"] = torch.zeros_like(policy.mismatched)
        return policy, replace(policy, **zeros)


@dataclass(frozen=True, kw_only=True)
class Humanline(PreferenceModifier):
    """Each token's log-ratio is clamped before any loss reads it; applies to every loss with a reference.

    Liu et al. 2025, Humanline: online alignment as perceptual loss, arXiv:2509.24207.
    log_ratio_low: lower end of the clamp; a token below it gets no gradient.
    log_ratio_high: upper end of the clamp; a token above it gets no gradient.
    """

    log_ratio_low: float = within(at_most=0, advice="-1 is that of the paper")
    log_ratio_high: float = within(at_least=0, advice="1.5 is that of the paper")

    def logprobs(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[PairLogprobs, PairLogprobs | None]:
        """The policy's log-probabilities, with each log-ratio to the reference clamped."""
        if reference is None:
            raise ShapeError("Humanline clamps log-ratios to a reference, but there is none; drop the modifier")

        def clamped(values: Tensor, base: Tensor) -> Tensor:
            return base.detach() + (values - base.detach()).clamp(self.log_ratio_low, self.log_ratio_high)

        chosen, rejected = clamped(policy.chosen, reference.chosen), clamped(policy.rejected, reference.rejected)
        return replace(policy, chosen=chosen, rejected=rejected), reference


# f-divergences other than the reverse KL: a function of the log-ratio replaces the log-ratio.

EXPONENT_LIMIT = 40.0  # e^40 is 2e17, whose square is finite in float32; log-ratios of sequences far exceed a token's limit of 20


def forward_kl_score(log_ratio: Tensor) -> Tensor:
    """1 - e^(-x): f' of the forward KL; -x is capped at 40. [B] -> [B]."""
    return 1 - torch.exp((-log_ratio).clamp(max=EXPONENT_LIMIT))


def jensen_shannon_score(log_ratio: Tensor) -> Tensor:
    """log 2 + log σ(x): f' of the Jensen-Shannon divergence. [B] -> [B]."""
    return math.log(2) + F.logsigmoid(log_ratio)


def alpha_score(log_ratio: Tensor, *, alpha: float) -> Tensor:
    """(e^((α-1) x) - 1) / (α - 1), x at α = 1: f' of the α-divergence; the exponent is capped at 40. [B] -> [B]."""
    if abs(alpha - 1) < 1e-6:
        return log_ratio
    return (torch.exp(((alpha - 1) * log_ratio).clamp(max=EXPONENT_LIMIT)) - 1) / (alpha - 1)


@dataclass(frozen=True, kw_only=True)
class _Divergence(PreferenceModifier):
    changes_scores: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ReverseKl(_Divergence):
    """The log-ratio itself, as in every loss without a divergence."""


@dataclass(frozen=True, kw_only=True)
class ForwardKl(_Divergence):
    """Forward KL: moving towards completions that the reference finds unlikely is cheap, forgetting likely ones is costly."""

    formula: ClassVar = forward_kl_score

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] forward_kl_score."""
        return forward_kl_score(log_ratio)


@dataclass(frozen=True, kw_only=True)
class JensenShannon(_Divergence):
    """Jensen-Shannon divergence: between the two KLs; the score of a completion is at most log 2."""

    formula: ClassVar = jensen_shannon_score

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] jensen_shannon_score."""
        return jensen_shannon_score(log_ratio)


@dataclass(frozen=True, kw_only=True)
class AlphaDivergence(_Divergence):
    """The α-divergence.

    alpha: α; 1 is the reverse KL, 0 the forward KL, 0.5 is in between.
    """

    formula: ClassVar = alpha_score

    alpha: float = within(at_least=0, at_most=1, advice="1 is the reverse KL, 0 the forward KL")

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] alpha_score."""
        return alpha_score(log_ratio, alpha=self.alpha)
