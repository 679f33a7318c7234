"""Preference losses that read each completion's log-ratio, not only their margin.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference; a = c - c0, b = r - r0; σ the logistic function.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import clamped_exp
from rlx.loss.preference.base import preference_loss
from rlx.loss.preference.margin import Beta


@preference_loss
def nca(chosen: Tensor, rejected: Tensor, *, beta: Beta = 0.1) -> Tensor:
    """-log σ(β a) - ½ log σ(-β a) - ½ log σ(-β b).

    Noise-contrastive comparison of each completion with the reference; keeps the chosen one from losing likelihood.
    Paper: Chen et al. 2024, Noise contrastive alignment of language models (NCA) for two completions, arXiv:2402.05369.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """
    return -F.logsigmoid(beta * chosen) - 0.5 * F.logsigmoid(-beta * chosen) - 0.5 * F.logsigmoid(-beta * rejected)


@preference_loss
def bco(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Beta = 0.1,
    reward_shift: Annotated[float, within(advice="0 is usual for pairs")] = 0.0,
) -> Tensor:
    """-log σ(β a - δ) - log σ(-(β b - δ)).

    A binary classifier of chosen and rejected whose logit is the implicit reward.
    Paper: Jung et al. 2024, Binary classifier optimization (BCO), arXiv:2404.04656.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    reward_shift: δ, the implicit reward at which the classifier is undecided.
    Convention: the paper and LLaMA-Factory track δ as a running mean of the rewards; TRL's form for pairs has δ = 0.
    """
    return -F.logsigmoid(beta * chosen - reward_shift) - F.logsigmoid(-(beta * rejected - reward_shift))


@preference_loss
def sppo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Annotated[float, within(above=0, advice="the log-ratios are regressed to 1/(2 beta); 0.1 is usual")] = 0.1,
) -> Tensor:
    """(a - 1/(2β))² + (b + 1/(2β))².

    Regresses each log-ratio to its own target, positive for the chosen and negative for the rejected completion.
    Paper: Wu et al. 2024, Self-play preference optimization (SPPO), eq. 4.7 with hard labels, arXiv:2405.00675.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: sets the targets 1/(2 beta) and -1/(2 beta); a larger one keeps the policy closer to the reference.
    Convention: the labels are hard, 1 and 0; the paper's soft form takes win rates from a preference model.
    """
    target = 1 / (2 * beta)
    return (chosen - target) ** 2 + (rejected + target) ** 2


@preference_loss
def dpo_shift(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Beta = 0.1,
    rejected_share: Annotated[float, within(above=0, at_most=1, advice="1 is dpo; 0.75 is a start")] = 0.75,
) -> Tensor:
    """-log σ(β (a - f b)).

    DPO that gives the rejected completion less weight, so that the chosen one gains likelihood instead of both losing it.
    Paper: Yang et al. 2025, DPO-Shift: shifting the distribution of direct preference optimization, arXiv:2502.07599.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    rejected_share: f, the weight of the rejected log-ratio; 1 is dpo.
    Convention: f is constant; the paper also lets it grow from batch to batch.
    """
    return -F.logsigmoid(beta * (chosen - rejected_share * rejected))


@preference_loss
def chi_po(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Beta = 0.1,
    reward_bound: Annotated[
        float, within(above=0, advice="it bounds the rewards, so that their difference is at most twice it")
    ] = 10.0,
) -> Tensor:
    """-log σ(clip(β (φ(a) - φ(b)), -2R, 2R)), φ(x) = x + e^x.

    DPO with the χ² divergence added to the KL: raising completions that the reference finds unlikely becomes costly.
    Paper: Huang et al. 2024, Correcting the mythos of KL-regularization (χPO), algorithm 1, arXiv:2407.13399.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    reward_bound: R, the largest implicit reward; pairs whose rewards differ by more than 2R have no gradient.
    Convention: x in e^x is clamped to ±20, as are all ratios here.
    """
    difference = beta * (chosen + clamped_exp(chosen) - rejected - clamped_exp(rejected))
    return -F.logsigmoid(difference.clamp(-2 * reward_bound, 2 * reward_bound))


@preference_loss
def apo_zero(chosen: Tensor, rejected: Tensor, *, beta: Beta = 0.1) -> Tensor:
    """1 - σ(β a) + σ(β b).

    Chosen completions up, rejected ones down: for data that is better than the policy.
    Paper: D'Oosterlinck et al. 2024, Anchored preference optimization (APO-zero), eq. 7, arXiv:2408.06266.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


@preference_loss
def apo_down(chosen: Tensor, rejected: Tensor, *, beta: Beta = 0.1) -> Tensor:
    """σ(β a) + 1 - σ(β (a - b)).

    Both completions down, the rejected one further: for data that is worse than the policy.
    Paper: D'Oosterlinck et al. 2024, Anchored preference optimization (APO-down), eq. 8, arXiv:2408.06266.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))
