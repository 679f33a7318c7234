"""Preference losses that mix the pairs of a batch: sorted ones, and those with a batch-wide reference point.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference; a = c - c0, b = r - r0; σ the logistic function.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import within
from rlx.loss.preference.base import PairLogprobs, PreferenceLoss, ScoreLoss, Scores, masked
from rlx.loss.preference.margin import BETA, SMOOTHING, dpo_conservative_loss
from rlx.loss.ratio import stop_gradient


def aot_loss(upper: Tensor, lower: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """-(1-ε) log σ(β δ) - ε log σ(-β δ), δ_i = sort(upper)_i - sort(lower)_i over the batch.

    Paper: Melnyk et al. 2024, Distributional preference alignment via optimal transport (AOT), arXiv:2406.05882.
    Shapes: upper [B], lower [B] -> [B].
    """
    return dpo_conservative_loss(upper.sort().values - lower.sort().values, beta=beta, label_smoothing=label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Aot(PreferenceLoss):
    """The distribution of c - r over the batch is to dominate that of c0 - r0.

    Where: upper is c - r, lower is c0 - r0.
    beta: scales the difference of the sorted values.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    """

    formula: ClassVar = aot_loss
    couples_rows: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    label_smoothing: float = within(at_least=0, below=0.5, advice=SMOOTHING)

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] aot_loss of the policy's and the reference's differences."""
        assert reference is not None
        upper, lower = policy.chosen_sum - policy.rejected_sum, reference.chosen_sum - reference.rejected_sum
        return aot_loss(upper, lower.detach(), beta=self.beta, label_smoothing=self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class AotUnpaired(ScoreLoss):
    """The distribution of the chosen log-ratios over the batch is to dominate that of the rejected ones.

    Where: upper is a, lower is b.
    beta: scales the difference of the sorted values.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    """

    formula: ClassVar = aot_loss
    couples_rows: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    label_smoothing: float = within(at_least=0, below=0.5, advice=SMOOTHING)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] aot_loss of the chosen and the rejected log-ratios."""
        return aot_loss(scores.chosen, scores.rejected, beta=self.beta, label_smoothing=self.label_smoothing)


def kto_loss(log_ratio: Tensor, reference_point: Tensor, desirable: Tensor, *, beta: float) -> Tensor:
    """1 - σ(β (x - z)) of a desirable completion, 1 - σ(β (z - x)) of an undesirable one, x its log-ratio.

    Paper: Ethayarajh et al. 2024, KTO: model alignment as prospect theoretic optimization, arXiv:2402.01306.
    Shapes: log_ratio x, reference_point z, desirable (bool): all [B, 2] or broadcast to it -> [B, 2].
    """
    gain = torch.where(desirable, log_ratio - reference_point, reference_point - log_ratio)
    return torch.sigmoid(-beta * gain)


@dataclass(frozen=True, kw_only=True)
class _Kto(PreferenceLoss):
    """What the two forms of KTO share: each completion by itself, desirable or not; a row is the mean of those it has."""

    formula: ClassVar = kto_loss
    couples_rows: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    desirable_weight: float = within(at_least=0, advice="1 is usual")
    undesirable_weight: float = within(at_least=0, advice="1 is usual")

    @abstractmethod
    def reference_point(self, policy: PairLogprobs, reference: PairLogprobs, desirable: Tensor, present: Tensor) -> Tensor:
        """z, broadcastable to [B, 2]; desirable, present: bool [B, 2]."""

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] kto_loss of both completions, weighed, a mean over those that the row has."""
        assert reference is not None
        scores = Scores.of(policy, reference)
        log_ratio = torch.stack([scores.chosen, scores.rejected], dim=1)
        if policy.label is None:
            desirable = torch.tensor([True, False], device=log_ratio.device).expand_as(log_ratio)
        else:
            desirable = policy.label
        present = torch.ones_like(desirable) if policy.has_label is None else policy.has_label
        point = self.reference_point(policy, reference, desirable, present)
        losses = kto_loss(log_ratio, stop_gradient(point), desirable, beta=self.beta)
        weighed = torch.where(desirable, self.desirable_weight * losses, self.undesirable_weight * losses)
        return masked(weighed, present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Kto(_Kto):
    """Prospect theory: each completion is a gain or a loss against z, the policy's drift on unrelated completions.

    Where: z = max(0, mean over the batch of the log-ratio of completions after prompts they do not belong to), no gradient.
    beta: how fast the value of a gain saturates; a larger one keeps the policy closer to the reference.
    desirable_weight: weight of the desirable completions.
    undesirable_weight: weight of the undesirable ones; with unequal counts keep weight times count within 1 to 4/3 of each other.
    Convention: a row is the mean of its completions, so pairs and lone labelled completions both give the mean over completions.
    Convention: z comes from mismatched completions, as in the paper and TRL; kto_pair takes it from the other side of the batch.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"mismatched", "label"})

    def reference_point(self, policy: PairLogprobs, reference: PairLogprobs, desirable: Tensor, present: Tensor) -> Tensor:
        """[] the mean log-ratio of the mismatched completions, at least 0."""
        del desirable, present
        if policy.mismatched is None or reference.mismatched is None:
            raise ShapeError(
                "Kto needs the reference's log-probabilities of mismatched completions too; see PairLogprobs.mismatched"
            )
        return (policy.mismatched - reference.mismatched).mean().clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class KtoPair(_Kto):
    """KTO whose z for one side is the mean log-ratio of the other: no forward pass for mismatched completions.

    Where: z of the desirable ones = max(0, mean log-ratio of the undesirable ones of the batch), and vice versa; no gradient.
    beta: how fast the value of a gain saturates; a larger one keeps the policy closer to the reference.
    desirable_weight: weight of the desirable completions.
    undesirable_weight: weight of the undesirable ones.
    Convention: this is the paired form of the first KTO report, OpenRLHF and older TRL (kto_pair); the paper's estimate is kto.
    Convention: z is constant here, as the paper has it; OpenRLHF and older TRL let the gradient through.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"label"})

    def reference_point(self, policy: PairLogprobs, reference: PairLogprobs, desirable: Tensor, present: Tensor) -> Tensor:
        """[B, 2] the mean log-ratio of the other kind, at least 0."""
        scores = Scores.of(policy, reference)
        log_ratio = torch.stack([scores.chosen, scores.rejected], dim=1)
        of_desirable, of_undesirable = (
            (log_ratio * kind).sum() / kind.sum().clamp(min=1) for kind in (desirable & present, ~desirable & present)
        )
        return torch.where(desirable, of_undesirable, of_desirable).clamp(min=0)
