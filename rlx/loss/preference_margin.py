"""Preference losses that shift the margin of DPO: by an offset, a penalty, a second KL.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference; a = c - c0, b = r - r0, margin Δ = a - b; σ the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from rlx.loss.base import PreferenceLoss, ScoreLoss
from rlx.loss.hyperparameter import within
from rlx.loss.pairs import PairLogprobs, Scores, masked
from rlx.loss.preference import BETA, dpo_loss
from rlx.loss.preference_target import ipo_loss
from rlx.loss.stop_gradient import stop_gradient


def dpop_loss(margin: Tensor, chosen_log_ratio: Tensor, *, beta: float, penalty: float) -> Tensor:
    """-log σ(β (Δ - λ max(0, -a))).

    Paper: Pal et al. 2024, Smaug: fixing failure modes of preference optimisation (DPOP), eq. 3, arXiv:2402.13228.
    Shapes: margin Δ [B], chosen_log_ratio a [B] -> [B].
    """
    return dpo_loss(margin - penalty * F.relu(-chosen_log_ratio), beta=beta)


@dataclass(frozen=True, kw_only=True)
class Dpop(ScoreLoss):
    """DPO that is not satisfied while the chosen completion is less likely than under the reference.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    penalty: λ, the price of a chosen completion that lost log-probability; 0 is dpo, 50 that of the paper.
    """

    formula: ClassVar = dpop_loss

    beta: float = within(above=0, advice=BETA)
    penalty: float = within(at_least=0, advice="a negative penalty would reward forgetting the chosen completion; try 5")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] dpop_loss of the margin and the chosen log-ratio."""
        return dpop_loss(scores.margin, scores.chosen, beta=self.beta, penalty=self.penalty)


def r_dpo_loss(margin: Tensor, length_difference: Tensor, *, beta: float, length_penalty: float) -> Tensor:
    """-log σ(β Δ + α (n_c - n_r)).

    Paper: Park et al. 2024, Disentangling length from quality (R-DPO), arXiv:2403.19159.
    Shapes: margin Δ [B], length_difference n_c - n_r [B] -> [B].
    """
    return -F.logsigmoid(beta * margin + length_penalty * length_difference)


@dataclass(frozen=True, kw_only=True)
class RDpo(ScoreLoss):
    """DPO for a reward from which α per token is taken: a longer chosen completion needs a smaller margin.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    length_penalty: α, the price of a token, in units of the reward; 0 is dpo.
    Convention: the sign follows from the objective reward - α n - β KL, whose optimum has reward β log(π/π0) + α n; some
        write-ups have it the other way round.
    """

    formula: ClassVar = r_dpo_loss

    beta: float = within(above=0, advice=BETA)
    length_penalty: float = within(at_least=0, advice="a negative one would reward length; 0.01 to 0.1 is usual")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] r_dpo_loss of the margin and the difference of lengths."""
        difference = scores.chosen_length - scores.rejected_length
        return r_dpo_loss(scores.margin, difference, beta=self.beta, length_penalty=self.length_penalty)


def cal_dpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-log σ(a - b) + (a - 1/(2β))² + (b + 1/(2β))².

    Paper: Xiao et al. 2024, Cal-DPO: calibrated direct preference optimization, arXiv:2412.14516.
    Shapes: chosen a [B], rejected b [B] -> [B].
    """
    return dpo_loss(chosen - rejected, beta=1.0) + ipo_loss(chosen, beta=beta) + ipo_loss(-rejected, beta=beta)


@dataclass(frozen=True, kw_only=True)
class CalDpo(ScoreLoss):
    """DPO whose log-ratios are also regressed to the rewards themselves, 1/2 and -1/2 over beta.

    beta: sets the targets 1/(2 beta) and -1/(2 beta) of the log-ratios; a larger one keeps the policy closer to the reference.
    """

    formula: ClassVar = cal_dpo_loss

    beta: float = within(above=0, advice="the log-ratios are regressed to 1/(2 beta); 0.001 is that of the paper")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] cal_dpo_loss of the log-ratios."""
        return cal_dpo_loss(scores.chosen, scores.rejected, beta=self.beta)


def tdpo_loss(margin: Tensor, chosen_kl: Tensor, rejected_kl: Tensor, *, beta: float, kl_scale: float) -> Tensor:
    """-log σ(β (Δ - α (KL_r - sg(KL_c)))), KL the sum over tokens of KL(reference || policy) over the vocabulary.

    Paper: Zeng et al. 2024, Token-level direct preference optimization (TDPO2), arXiv:2404.11999.
    Shapes: margin Δ [B], chosen_kl [B], rejected_kl [B] -> [B].
    """
    return dpo_loss(margin - kl_scale * (rejected_kl - stop_gradient(chosen_kl)), beta=beta)


@dataclass(frozen=True, kw_only=True)
class Tdpo(PreferenceLoss):
    """DPO that balances the token-wise KL of the two completions; the second of the two forms of the paper.

    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    kl_scale: α, how strongly the rejected completion's KL is held to the chosen one's; 0 is dpo.
    """

    formula: ClassVar = tdpo_loss
    requires: ClassVar[frozenset[str]] = frozenset({"vocabulary_kl"})

    beta: float = within(above=0, advice=BETA)
    kl_scale: float = within(
        at_least=0, advice="a negative one would reward drift on the rejected completion; 0.5 is that of the paper"
    )

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B] tdpo_loss of the margin and the two KLs."""
        assert policy.chosen_vocabulary_kl is not None
        assert policy.rejected_vocabulary_kl is not None
        chosen_kl = masked(policy.chosen_vocabulary_kl, policy.chosen_mask).sum(dim=1)
        rejected_kl = masked(policy.rejected_vocabulary_kl, policy.rejected_mask).sum(dim=1)
        return tdpo_loss(Scores.of(policy, reference).margin, chosen_kl, rejected_kl, beta=self.beta, kl_scale=self.kl_scale)
