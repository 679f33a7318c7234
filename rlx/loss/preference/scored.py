"""Preference losses for pairs with scores: how much better the chosen completion is, not only that it is.

Dimensions: B pairs. Notation: margin Δ, the log-ratio of the chosen completion to the reference minus that of the rejected one;
s_c and s_r the scores of the two; σ the logistic function.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.preference.base import PairLogprobs, PreferenceLoss, Scores
from rlx.loss.preference.margin import BETA

SCALE = "a negative one would prefer the lower score; 1 is usual"


@dataclass(frozen=True, kw_only=True)
class _Scored(PreferenceLoss):
    requires: ClassVar[frozenset[str]] = frozenset({"scores"})

    beta: float = within(above=0, advice=BETA)

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] the formula of the margin and the difference of the scores."""
        assert policy.scores is not None
        margin = Scores.of(policy, reference).margin
        return self.of_gap(margin, (policy.scores[:, 0] - policy.scores[:, 1]).to(margin.dtype))

    @abstractmethod
    def of_gap(self, margin: Tensor, gap: Tensor) -> Tensor:
        """[B] the formula; gap: s_c - s_r [B]."""


def odpo_loss(margin: Tensor, gap: Tensor, *, beta: float, offset_scale: float) -> Tensor:
    """-log σ(β Δ - α log(s_c - s_r)).

    Paper: Amini et al. 2024, Direct preference optimization with an offset (ODPO), arXiv:2402.10571.
    Shapes: margin Δ [B], gap s_c - s_r [B] -> [B].
    """
    return -F.logsigmoid(beta * margin - offset_scale * torch.log(gap))


@dataclass(frozen=True, kw_only=True)
class Odpo(_Scored):
    """DPO that asks for a larger margin where the scores of the pair lie further apart.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    offset_scale: α, how much of the log of the score difference the margin must exceed; 0 is dpo.
    smallest_gap: a score difference below this (a tie, or a chosen completion scored lower) counts as this.
    """

    formula: ClassVar = odpo_loss

    offset_scale: float = within(at_least=0, advice="a negative one would ask less of the clearer pairs; 1 is usual")
    smallest_gap: float = within(above=0, advice="the log of a gap of 0 is infinite; try 1e-6")

    def of_gap(self, margin: Tensor, gap: Tensor) -> Tensor:
        """[B] odpo_loss, the gap held above the smallest."""
        return odpo_loss(margin, gap.clamp(min=self.smallest_gap), beta=self.beta, offset_scale=self.offset_scale)


def rpo_squared_loss(margin: Tensor, gap: Tensor, *, beta: float, score_scale: float) -> Tensor:
    """(β Δ - η (s_c - s_r))².

    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], gap s_c - s_r [B] -> [B].
    """
    return (beta * margin - score_scale * gap) ** 2


@dataclass(frozen=True, kw_only=True)
class RpoSquared(_Scored):
    """The implicit reward difference is regressed to that of the scores.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, what a difference of one score is worth.
    Convention: NeMo-Aligner's rpo_sq; iterative RPO (arXiv:2404.19733) is another loss, dpo_nll.
    """

    formula: ClassVar = rpo_squared_loss

    score_scale: float = within(above=0, advice=SCALE)

    def of_gap(self, margin: Tensor, gap: Tensor) -> Tensor:
        """[B] rpo_squared_loss."""
        return rpo_squared_loss(margin, gap, beta=self.beta, score_scale=self.score_scale)


def bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(σ(first) || σ(second)) of two coins, from their logits. [B], [B] -> [B]."""
    heads = torch.sigmoid(first) * (F.logsigmoid(first) - F.logsigmoid(second))
    return heads + torch.sigmoid(-first) * (F.logsigmoid(-first) - F.logsigmoid(-second))


def rpo_backward_kl_loss(margin: Tensor, gap: Tensor, *, beta: float, score_scale: float) -> Tensor:
    """KL(σ(η (s_c - s_r)) || σ(β Δ)) of two coins.

    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], gap s_c - s_r [B] -> [B].
    """
    return bernoulli_kl(score_scale * gap, beta * margin)


@dataclass(frozen=True, kw_only=True)
class RpoBackwardKl(_Scored):
    """The preference of the policy is fitted to that of the scores: DPO with soft labels, less a constant.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, what a difference of one score is worth.
    Convention: the name is NeMo-Aligner's (rpo_bwd_kl): the labels are the first argument of the KL.
    """

    formula: ClassVar = rpo_backward_kl_loss

    score_scale: float = within(above=0, advice=SCALE)

    def of_gap(self, margin: Tensor, gap: Tensor) -> Tensor:
        """[B] rpo_backward_kl_loss."""
        return rpo_backward_kl_loss(margin, gap, beta=self.beta, score_scale=self.score_scale)


def rpo_forward_kl_loss(margin: Tensor, gap: Tensor, *, beta: float, score_scale: float) -> Tensor:
    """KL(σ(β Δ) || σ(η (s_c - s_r))) of two coins.

    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], gap s_c - s_r [B] -> [B].
    """
    return bernoulli_kl(beta * margin, score_scale * gap)


@dataclass(frozen=True, kw_only=True)
class RpoForwardKl(_Scored):
    """The preference of the policy is fitted to that of the scores, by the KL the other way round.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, what a difference of one score is worth.
    Convention: the name is NeMo-Aligner's (rpo_fwd_kl): the model is the first argument of the KL.
    """

    formula: ClassVar = rpo_forward_kl_loss

    score_scale: float = within(above=0, advice=SCALE)

    def of_gap(self, margin: Tensor, gap: Tensor) -> Tensor:
        """[B] rpo_forward_kl_loss."""
        return rpo_forward_kl_loss(margin, gap, beta=self.beta, score_scale=self.score_scale)
