"""Preference losses that couple the pairs of a batch, by sorting or by a batch-wide reference point.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference; a = c - c0, b = r - r0; σ the logistic function.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import masked, stop_gradient
from rlx.loss.preference.base import preference_loss
from rlx.loss.preference.margin import Beta, Smoothing, dpo_conservative

Share = Annotated[float, within(at_least=0, advice="1 is usual")]


def sorted_difference(upper: Tensor, lower: Tensor) -> Tensor:
    """δ_i = sort(upper)_i - sort(lower)_i over the batch. [B], [B] -> [B]."""
    return upper.sort().values - lower.sort().values


@preference_loss(couples_rows=True)
def dr_dpo(
    margin: Tensor,
    *,
    beta: Beta = 0.1,
    robustness: Annotated[float, within(above=0, advice="a large one is dpo; 1 is that of the paper")] = 1.0,
) -> Tensor:
    """-β' log mean exp(log σ(β Δ) / β'), the mean over the batch; each pair has that value.

    Distributionally robust DPO: badly fitting pairs, such as those with flipped labels, have less weight within their batch.
    Paper: Wu et al. 2024, Towards robust alignment of language models (Dr. DPO), arXiv:2407.07880.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    robustness: β'; the smaller it is, the more the best-fitting pairs dominate the batch.
    """
    log_chance = F.logsigmoid(beta * margin) / robustness
    pooled = torch.logsumexp(log_chance, dim=0) - math.log(max(len(margin), 1))
    return (-robustness * pooled).expand_as(margin)


@preference_loss(couples_rows=True)
def aot(policy_margin: Tensor, reference_margin: Tensor, *, beta: Beta = 0.1, label_smoothing: Smoothing = 0.0) -> Tensor:
    """-(1-ε) log σ(β δ) - ε log σ(-β δ), δ_i = sort(c - r)_i - sort(c0 - r0)_i over the batch.

    Pushes the distribution of c - r over the batch to dominate that of c0 - r0.
    Paper: Melnyk et al. 2024, Distributional preference alignment via optimal transport (AOT), arXiv:2406.05882.
    Shapes: policy_margin c - r [B], reference_margin c0 - r0 [B] -> [B].
    beta: scales the difference of the sorted values.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    """
    difference = sorted_difference(policy_margin, reference_margin)
    return dpo_conservative.formula(difference, beta=beta, label_smoothing=label_smoothing)


@preference_loss(couples_rows=True)
def aot_unpaired(chosen: Tensor, rejected: Tensor, *, beta: Beta = 0.1, label_smoothing: Smoothing = 0.0) -> Tensor:
    """-(1-ε) log σ(β δ) - ε log σ(-β δ), δ_i = sort(a)_i - sort(b)_i over the batch.

    Pushes the distribution of the chosen log-ratios over the batch to dominate that of the rejected ones.
    Paper: Melnyk et al. 2024, Distributional preference alignment via optimal transport (AOT), arXiv:2406.05882.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: scales the difference of the sorted values.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    """
    return dpo_conservative.formula(sorted_difference(chosen, rejected), beta=beta, label_smoothing=label_smoothing)


def prospect(
    log_ratio: Tensor, point: Tensor, label: Tensor, has_label: Tensor, *, beta: float, weights: tuple[float, float]
) -> Tensor:
    """w_d (1 - σ(β (x - z))) of a desirable completion, w_u (1 - σ(β (z - x))) of an undesirable one; the mean over each row.

    log_ratio x, label (is it desirable?), has_label (does it exist?): [B, 2]; point z: broadcast to that, treated as a
    constant; weights: (w_d, w_u). Returns [B].
    """
    point = stop_gradient(point)
    gain = torch.where(label, log_ratio - point, point - log_ratio)
    losses = torch.sigmoid(-beta * gain)
    weighed = torch.where(label, weights[0] * losses, weights[1] * losses)
    return masked(weighed, has_label).sum(dim=1) / has_label.sum(dim=1).clamp(min=1)


@preference_loss(couples_rows=True)
def kto(
    chosen: Tensor,
    rejected: Tensor,
    mismatched: Tensor,
    label: Tensor,
    has_label: Tensor,
    *,
    beta: Beta = 0.1,
    desirable_weight: Share = 1.0,
    undesirable_weight: Share = 1.0,
) -> Tensor:
    """1 - σ(β (x - z)) of a desirable completion, 1 - σ(β (z - x)) of an undesirable one, x its log-ratio.

    Prospect theory: each completion is a gain or a loss against z, the policy's drift on unrelated completions.
    Where: z = max(0, batch mean of the log-ratios of completions after prompts they do not belong to), no gradient.
    Paper: Ethayarajh et al. 2024, KTO: model alignment as prospect theoretic optimization, arXiv:2402.01306.
    Shapes: chosen a [B], rejected b [B], mismatched [B, M], label and has_label bool [B, 2] -> [B].
    beta: how fast the value of a gain saturates; a larger one keeps the policy closer to the reference.
    desirable_weight: weight of the desirable completions.
    undesirable_weight: weight of the undesirable ones; for unequal counts keep weight times count within 1 to 4/3 of each other.
    Convention: a row is the mean of its completions, so pairs and single labelled completions both give a mean over completions.
    Convention: z comes from mismatched completions, as in the paper and TRL; kto_pair takes it from the other side of the batch.
    """
    log_ratio, point = torch.stack([chosen, rejected], dim=1), mismatched.mean().clamp(min=0)
    weights = (desirable_weight, undesirable_weight)
    return prospect(log_ratio, point, label, has_label, beta=beta, weights=weights)


@preference_loss(couples_rows=True)
def kto_pair(
    chosen: Tensor,
    rejected: Tensor,
    label: Tensor,
    has_label: Tensor,
    *,
    beta: Beta = 0.1,
    desirable_weight: Share = 1.0,
    undesirable_weight: Share = 1.0,
) -> Tensor:
    """1 - σ(β (x - z)) of a desirable completion, 1 - σ(β (z - x)) of an undesirable one, x its log-ratio.

    KTO whose z for one side is the mean log-ratio of the other, which saves the forward pass for mismatched completions.
    Where: z of the desirable ones = max(0, mean log-ratio of the undesirable ones of the batch), and vice versa; no gradient.
    Paper: Ethayarajh et al. 2024, KTO: model alignment as prospect theoretic optimization, arXiv:2402.01306.
    Shapes: chosen a [B], rejected b [B], label and has_label bool [B, 2] -> [B].
    beta: how fast the value of a gain saturates; a larger one keeps the policy closer to the reference.
    desirable_weight: weight of the desirable completions.
    undesirable_weight: weight of the undesirable ones.
    Convention: this is the paired form of the first KTO report, OpenRLHF and older TRL (kto_pair); kto has the paper's estimate.
    Convention: z is a constant, as in the paper; OpenRLHF and older TRL let the gradient through.
    """
    log_ratio = torch.stack([chosen, rejected], dim=1)
    of_desirable, of_undesirable = (
        (log_ratio * kind).sum() / kind.sum().clamp(min=1) for kind in (label & has_label, ~label & has_label)
    )
    point = torch.where(label, of_undesirable, of_desirable).clamp(min=0)
    return prospect(log_ratio, point, label, has_label, beta=beta, weights=(desirable_weight, undesirable_weight))
