"""DPO and its nearest relatives: logistic losses of the margin of two log-ratios.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference, n_c and n_r their lengths; a = c - c0, b = r - r0, margin Δ = a - b; σ the logistic
function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from rlx.loss.base import ScoreLoss
from rlx.loss.hyperparameter import within
from rlx.loss.pairs import Scores

BETA = "beta scales the log-ratios, so its sign would turn the preference around; 0.1 is usual for dpo"
SMOOTHING = "label_smoothing is the share of labels that are wrong; half of them wrong says nothing"


def dpo_loss(margin: Tensor, *, beta: float) -> Tensor:
    """-log σ(β Δ).

    Paper: Rafailov et al. 2023, Direct Preference Optimization, eq. 7, arXiv:2305.18290.
    Shapes: margin Δ [B] -> [B].
    """
    return -F.logsigmoid(beta * margin)


@dataclass(frozen=True, kw_only=True)
class Dpo(ScoreLoss):
    """Direct preference optimisation: a logistic regression on implicit rewards.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    Convention: log-probabilities are summed over the completion, its end-of-sequence token included.
    Convention: rewards_chosen and rewards_rejected are beta times the log-ratio; NeMo RL logs the log-ratio alone.
    Convention: there is no label smoothing here; dpo_conservative and dpo_robust are two different ways to have it.
    """

    formula: ClassVar = dpo_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] dpo_loss of the margin."""
        return dpo_loss(scores.margin, beta=self.beta)


def dpo_conservative_loss(margin: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """-(1-ε) log σ(β Δ) - ε log σ(-β Δ).

    Paper: Mitchell 2023, A note on DPO with noisy preferences, https://ericmitchell.ai/cdpo.pdf.
    Shapes: margin Δ [B] -> [B].
    """
    return -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * F.logsigmoid(-beta * margin)


@dataclass(frozen=True, kw_only=True)
class DpoConservative(ScoreLoss):
    """DPO on labels of which a share ε is flipped: the margin has a finite best value instead of growing for ever.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is dpo.
    Convention: TRL's loss_type sigmoid ignores label_smoothing; OpenRLHF, torchtune and HALOs use this formula.
    """

    formula: ClassVar = dpo_conservative_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    label_smoothing: float = within(at_least=0, below=0.5, advice=SMOOTHING)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] dpo_conservative_loss of the margin."""
        return dpo_conservative_loss(scores.margin, beta=self.beta, label_smoothing=self.label_smoothing)


def dpo_robust_loss(margin: Tensor, *, beta: float, label_smoothing: float) -> Tensor:
    """(-(1-ε) log σ(β Δ) + ε log σ(-β Δ)) / (1 - 2ε).

    Paper: Chowdhury et al. 2024, Provably robust DPO, arXiv:2403.00409.
    Shapes: margin Δ [B] -> [B].
    """
    noisy = -(1 - label_smoothing) * F.logsigmoid(beta * margin) + label_smoothing * F.logsigmoid(-beta * margin)
    return noisy / (1 - 2 * label_smoothing)


@dataclass(frozen=True, kw_only=True)
class DpoRobust(ScoreLoss):
    """DPO whose expectation over labels flipped with probability ε is the loss on the true labels; unbounded below.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is dpo.
    """

    formula: ClassVar = dpo_robust_loss
    takes_divergence: ClassVar[bool] = True

    beta: float = within(above=0, advice=BETA)
    label_smoothing: float = within(at_least=0, below=0.5, advice=SMOOTHING)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] dpo_robust_loss of the margin."""
        return dpo_robust_loss(scores.margin, beta=self.beta, label_smoothing=self.label_smoothing)


def dpo_normalized_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(β (a/n_c - b/n_r)).

    Paper: Lambert et al. 2024, Tülu 3: pushing frontiers in open language model post-training, arXiv:2411.15124.
    Shapes: chosen a/n_c [B], rejected b/n_r [B] -> [B].
    """
    return dpo_loss(chosen - rejected, beta=beta)


@dataclass(frozen=True, kw_only=True)
class DpoNormalized(ScoreLoss):
    """DPO of the mean log-ratio of a token, n the lengths of the completions.

    beta: how strongly the policy is held to the reference; as the margin is of one token, some 5 takes the place of dpo's 0.1.
    Convention: an f-divergence acts on the summed log-ratio, before it is divided by the length, as in TRL.
    """

    formula: ClassVar = dpo_normalized_loss
    takes_divergence: ClassVar[bool] = True
    per_token: ClassVar[bool] = True

    beta: float = within(above=0, advice="beta scales the log-ratios of a token; 5 is usual for dpo_normalized")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] dpo_normalized_loss of the mean log-ratios."""
        return dpo_normalized_loss(scores.chosen, scores.rejected, beta=self.beta)
