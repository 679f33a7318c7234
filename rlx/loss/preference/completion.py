"""Preference losses that look at each completion's own log-ratio, not only at the margin of the two.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference; a = c - c0, b = r - r0; σ the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.preference.base import ScoreLoss, Scores
from rlx.loss.preference.margin import BETA, ipo_loss


def nca_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(β a) - ½ log σ(-β a) - ½ log σ(-β b).

    Paper: Chen et al. 2024, Noise contrastive alignment of language models (NCA) for two completions, arXiv:2402.05369.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return -F.logsigmoid(beta * chosen) - 0.5 * F.logsigmoid(-beta * chosen) - 0.5 * F.logsigmoid(-beta * rejected)


@dataclass(frozen=True, kw_only=True)
class Nca(ScoreLoss):
    """Noise contrast of each completion with the reference: keeps the chosen one from losing likelihood.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """

    formula: ClassVar = nca_loss

    beta: float = within(above=0, advice=BETA)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] nca_loss of the log-ratios."""
        return nca_loss(scores.chosen, scores.rejected, beta=self.beta)


def bco_loss(chosen: Tensor, rejected: Tensor, *, beta: float, reward_shift: float) -> Tensor:
    """-log σ(β a - δ) - log σ(-(β b - δ)).

    Paper: Jung et al. 2024, Binary classifier optimization (BCO), arXiv:2404.04656.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return -F.logsigmoid(beta * chosen - reward_shift) - F.logsigmoid(-(beta * rejected - reward_shift))


@dataclass(frozen=True, kw_only=True)
class Bco(ScoreLoss):
    """A binary classifier of chosen and rejected whose logit is the implicit reward.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    reward_shift: δ, the implicit reward at which the classifier is undecided.
    Convention: the paper and LLaMA-Factory track δ as a running mean of the rewards; TRL's form for pairs has δ = 0.
    """

    formula: ClassVar = bco_loss

    beta: float = within(above=0, advice=BETA)
    reward_shift: float = within(advice="0 is usual for pairs")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] bco_loss of the log-ratios."""
        return bco_loss(scores.chosen, scores.rejected, beta=self.beta, reward_shift=self.reward_shift)


def sppo_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(a - 1/(2β))² + (b + 1/(2β))².

    Paper: Wu et al. 2024, Self-play preference optimization (SPPO), eq. 4.7 with hard labels, arXiv:2405.00675.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return ipo_loss(chosen, beta=beta) + ipo_loss(-rejected, beta=beta)


@dataclass(frozen=True, kw_only=True)
class Sppo(ScoreLoss):
    """Regression of each log-ratio to its own target, up for the chosen and down for the rejected completion.

    beta: sets the targets 1/(2 beta) and -1/(2 beta); a larger one keeps the policy closer to the reference.
    Convention: the labels are hard, 1 and 0; the paper's soft form takes win rates from a preference model.
    """

    formula: ClassVar = sppo_loss

    beta: float = within(above=0, advice="the log-ratios are regressed to 1/(2 beta); 0.1 is usual")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] sppo_loss of the log-ratios."""
        return sppo_loss(scores.chosen, scores.rejected, beta=self.beta)


def apo_zero_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """1 - σ(β a) + σ(β b).

    Paper: D'Oosterlinck et al. 2024, Anchored preference optimization (APO-zero), eq. 7, arXiv:2408.06266.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return torch.sigmoid(-beta * chosen) + torch.sigmoid(beta * rejected)


@dataclass(frozen=True, kw_only=True)
class ApoZero(ScoreLoss):
    """Chosen completions up, rejected ones down: for data that is better than the policy.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """

    formula: ClassVar = apo_zero_loss

    beta: float = within(above=0, advice=BETA)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] apo_zero_loss of the log-ratios."""
        return apo_zero_loss(scores.chosen, scores.rejected, beta=self.beta)


def apo_down_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """σ(β a) + 1 - σ(β (a - b)).

    Paper: D'Oosterlinck et al. 2024, Anchored preference optimization (APO-down), eq. 8, arXiv:2408.06266.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return torch.sigmoid(beta * chosen) + torch.sigmoid(-beta * (chosen - rejected))


@dataclass(frozen=True, kw_only=True)
class ApoDown(ScoreLoss):
    """Both completions down, the rejected one further: for data that is worse than the policy.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    """

    formula: ClassVar = apo_down_loss

    beta: float = within(above=0, advice=BETA)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] apo_down_loss of the log-ratios."""
        return apo_down_loss(scores.chosen, scores.rejected, beta=self.beta)
