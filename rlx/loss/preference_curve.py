"""Preference losses of the same margin as DPO on another curve.

Dimensions: B pairs. Notation: margin Δ, the log-ratio of the chosen completion to the reference minus that of the rejected one;
σ the logistic function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.loss.base import ScoreLoss
from rlx.loss.hyperparameter import within
from rlx.loss.pairs import Scores
from rlx.loss.preference import BETA


def exo_loss(margin: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """q (log q - log(1-ε)) + (1-q) (log(1-q) - log ε), q = σ(β Δ).

    Paper: Ji et al. 2024, Towards efficient exact optimization (EXO), eq. 16 for two completions, arXiv:2402.00856.
    Shapes: margin Δ [B] -> [B].
    """
    share = torch.sigmoid(beta * margin)
    chosen = share * (F.logsigmoid(beta * margin) - math.log1p(-label_smoothing))
    rejected = torch.sigmoid(-beta * margin) * (F.logsigmoid(-beta * margin) - math.log(label_smoothing))
    return chosen + rejected


@dataclass(frozen=True, kw_only=True)
class Exo(ScoreLoss):
    """The reverse KL between the policy's choice within the pair and a label of which a share ε is wrong.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; it must be above 0, for the reverse KL to 0 is infinite.
    Convention: label_smoothing = 0 is refused, as in TRL; 0.001 is usual.
    """

    formula: ClassVar = exo_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    label_smoothing: float = within(above=0, below=0.5, advice="the reverse KL to a label that is certain is infinite; try 0.001")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] exo_loss of the margin."""
        return exo_loss(scores.margin, beta=self.beta, label_smoothing=self.label_smoothing)


def discopop_loss(margin: Tensor, *, beta: float, temperature: float) -> Tensor:
    """-(1-m) log σ(l) + m exp(-l), l = β Δ, m = σ(l / τ).

    Paper: Lu et al. 2024, Discovering preference optimization algorithms (DiscoPOP), eq. 5, arXiv:2406.08414.
    Shapes: margin Δ [B] -> [B].
    """
    logits = beta * margin
    # m exp(-l) = exp(log m - l): finite wherever τ <= 1, while exp(-l) alone overflows for a large negative margin.
    exponential = torch.exp(F.logsigmoid(logits / temperature) - logits)
    return -torch.sigmoid(-logits / temperature) * F.logsigmoid(logits) + exponential


@dataclass(frozen=True, kw_only=True)
class Discopop(ScoreLoss):
    """A blend of the logistic and the exponential loss that a language model found by search; not convex near 0.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    temperature: τ, how sharply the blend turns from logistic (negative margin) to exponential (positive).
    """

    formula: ClassVar = discopop_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    temperature: float = within(above=0, at_most=1, advice="above 1 the exponential part overflows; 0.05 is that of the paper")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] discopop_loss of the margin."""
        return discopop_loss(scores.margin, beta=self.beta, temperature=self.temperature)
