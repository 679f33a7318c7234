"""Preference losses that ask for a certain margin and no more: a regression to it, or a hinge.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference, n_c and n_r their lengths; a = c - c0, b = r - r0, margin Δ = a - b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from rlx.loss.base import ScoreLoss
from rlx.loss.hyperparameter import within
from rlx.loss.pairs import Scores
from rlx.loss.preference import BETA


def ipo_loss(margin: Tensor, *, beta: float) -> Tensor:
    """(Δ - 1/(2β))².

    Paper: Azar et al. 2023, A general theoretical paradigm (IPO), eq. 17, arXiv:2310.12036.
    Shapes: margin Δ [B] -> [B].
    """
    return (margin - 1 / (2 * beta)) ** 2


@dataclass(frozen=True, kw_only=True)
class Ipo(ScoreLoss):
    """Identity preference optimisation: regress the margin of summed log-ratios to 1/(2β), so that it cannot run away.

    beta: the target margin is 1/(2 beta): a larger one keeps the policy closer to the reference.
    Convention: sums, as in the paper, the DPO authors' code and OpenRLHF; ipo_normalized divides by length, as TRL does.
    """

    formula: ClassVar = ipo_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice="the margin is regressed to 1/(2 beta); 0.1 is usual for ipo")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] ipo_loss of the margin."""
        return ipo_loss(scores.margin, beta=self.beta)


def ipo_normalized_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """(a/n_c - b/n_r - 1/(2β))².

    Paper: Azar et al. 2023, eq. 17, arXiv:2310.12036; the division by length is what its authors confirmed to TRL.
    Shapes: chosen a/n_c [B], rejected b/n_r [B] -> [B].
    """
    return ipo_loss(chosen - rejected, beta=beta)


@dataclass(frozen=True, kw_only=True)
class IpoNormalized(ScoreLoss):
    """Identity preference optimisation of the mean log-ratio of a token.

    beta: the target margin of a token is 1/(2 beta): a larger one keeps the policy closer to the reference.
    Convention: ipo is the same formula of sums.
    """

    formula: ClassVar = ipo_normalized_loss
    takes_divergence: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    beta: float = within(above=0, advice="the margin is regressed to 1/(2 beta); 0.1 is usual for ipo")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] ipo_normalized_loss of the mean log-ratios."""
        return ipo_normalized_loss(scores.chosen, scores.rejected, beta=self.beta)


def hinge_loss(margin: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - β Δ).

    Paper: Liu et al. 2023, Statistical rejection sampling (RSO), arXiv:2309.06657; Zhao et al. 2023 (SLiC), arXiv:2305.10425.
    Shapes: margin Δ [B] -> [B].
    """
    return F.relu(1 - beta * margin)


@dataclass(frozen=True, kw_only=True)
class Hinge(ScoreLoss):
    """The hinge of RSO: a pair whose scaled margin exceeds 1 teaches nothing more.

    beta: the inverse of the margin of log-ratios that is asked for.
    Convention: the margin is of log-ratios to the reference; slic takes log-probabilities and adds a likelihood term.
    """

    formula: ClassVar = hinge_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] hinge_loss of the margin."""
        return hinge_loss(scores.margin, beta=self.beta)
