"""Preference losses for pairs with scores, which say how much better the chosen completion is.

Dimensions: B pairs. Notation: margin Δ, the log-ratio of the chosen completion to the reference minus that of the rejected one;
s_c and s_r the scores of the two; σ the logistic function.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.preference.base import preference_loss
from rlx.loss.preference.margin import Beta

ScoreScale = Annotated[float, within(above=0, advice="a negative one would prefer the lower score; 1 is usual")]


@preference_loss
def odpo(
    margin: Tensor,
    score_gap: Tensor,
    *,
    beta: Beta = 0.1,
    offset_scale: Annotated[
        float, within(at_least=0, advice="a negative one would ask less of the clearer pairs; 1 is usual")
    ] = 1.0,
    smallest_gap: Annotated[float, within(above=0, advice="the log of a gap of 0 is infinite; try 1e-6")] = 1e-6,
) -> Tensor:
    """-log σ(β Δ - α log(s_c - s_r)).

    DPO that requires a larger margin for pairs whose scores are further apart.
    Paper: Amini et al. 2024, Direct preference optimization with an offset (ODPO), arXiv:2402.10571.
    Shapes: margin Δ [B], score_gap s_c - s_r [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    offset_scale: α, how much of the log of the score difference the margin must exceed; 0 is dpo.
    smallest_gap: a score difference below this (a tie, or a chosen completion scored lower) counts as this.
    """
    return -F.logsigmoid(beta * margin - offset_scale * torch.log(score_gap.clamp(min=smallest_gap)))


@preference_loss
def rpo_squared(margin: Tensor, score_gap: Tensor, *, beta: Beta = 0.1, score_scale: ScoreScale = 1.0) -> Tensor:
    """(β Δ - η (s_c - s_r))².

    Regresses the difference of implicit rewards to the difference of scores.
    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], score_gap s_c - s_r [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, the reward difference that corresponds to a score difference of 1.
    Convention: NeMo-Aligner's rpo_sq; iterative RPO (arXiv:2404.19733) is another loss, dpo_nll.
    """
    return (beta * margin - score_scale * score_gap) ** 2


@preference_loss
def rebel(
    margin: Tensor,
    score_gap: Tensor,
    *,
    step_size: Annotated[
        float, within(above=0, advice="the margin is regressed to step_size times the scores' difference")
    ] = 1.0,
) -> Tensor:
    """(Δ / η - (s_c - s_r))².

    Regresses the difference of log-ratios to the difference of scores.
    Paper: Gao et al. 2024, REBEL: reinforcement learning via regressing relative rewards, eq. 1, arXiv:2404.16767.
    Shapes: margin Δ [B], score_gap s_c - s_r [B] -> [B].
    step_size: η, how far one fit may move the policy.
    Convention: the paper's log-ratios are to the policy of the last iteration; here they are to the run's reference.
    Convention: rpo_squared at β = 1 / η and score_scale 1 is the same function.
    """
    return (margin / step_size - score_gap) ** 2


def bernoulli_kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(σ(first) || σ(second)) of two Bernoulli distributions, from their logits. [B], [B] -> [B]."""
    heads = torch.sigmoid(first) * (F.logsigmoid(first) - F.logsigmoid(second))
    return heads + torch.sigmoid(-first) * (F.logsigmoid(-first) - F.logsigmoid(-second))


@preference_loss
def rpo_backward_kl(margin: Tensor, score_gap: Tensor, *, beta: Beta = 0.1, score_scale: ScoreScale = 1.0) -> Tensor:
    """KL(σ(η (s_c - s_r)) || σ(β Δ)) of two Bernoulli distributions.

    Fits the preference of the policy to that of the scores: DPO with soft labels, minus a constant.
    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], score_gap s_c - s_r [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, the reward difference that corresponds to a score difference of 1.
    Convention: the name is NeMo-Aligner's (rpo_bwd_kl): the labels are the first argument of the KL.
    """
    return bernoulli_kl(score_scale * score_gap, beta * margin)


@preference_loss
def rpo_forward_kl(margin: Tensor, score_gap: Tensor, *, beta: Beta = 0.1, score_scale: ScoreScale = 1.0) -> Tensor:
    """KL(σ(β Δ) || σ(η (s_c - s_r))) of two Bernoulli distributions.

    Fits the preference of the policy to that of the scores, by the KL in the other direction.
    Paper: Nvidia 2024, Nemotron-4 340B, reward-aware preference optimization (RPO), arXiv:2406.11704.
    Shapes: margin Δ [B], score_gap s_c - s_r [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    score_scale: η, the reward difference that corresponds to a score difference of 1.
    Convention: the name is NeMo-Aligner's (rpo_fwd_kl): the model is the first argument of the KL.
    """
    return bernoulli_kl(beta * margin, score_scale * score_gap)
