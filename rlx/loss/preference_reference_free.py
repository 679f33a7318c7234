"""Preference losses of mean log-probabilities, which need no reference.

Dimensions: B pairs. Notation: c̄ and r̄ are the mean log-probabilities of a token of the chosen and the rejected completion
under the policy; σ the logistic function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlx.loss.base import ScoreLoss
from rlx.loss.hyperparameter import within
from rlx.loss.pairs import Scores
from rlx.loss.preference import SMOOTHING, dpo_conservative_loss
from rlx.loss.ratio import clamped_exp


def simpo_loss(margin: Tensor, *, beta: float, gamma: float, label_smoothing: float) -> Tensor:
    """-(1-ε) log σ(z) - ε log σ(-z), z = β (c̄ - r̄) - γ.

    Paper: Meng et al. 2024, SimPO: simple preference optimization, eq. 6, arXiv:2405.14734.
    Shapes: margin c̄ - r̄ [B] -> [B].
    """
    return dpo_conservative_loss(beta * margin - gamma, beta=1.0, label_smoothing=label_smoothing)


@dataclass(frozen=True, kw_only=True)
class Simpo(ScoreLoss):
    """A logistic loss of the mean log-probability of a token, with a target margin and without a reference.

    beta: scales the difference of the mean log-probabilities.
    gamma: γ, the reward margin that is asked for.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    Convention: gamma is absolute, subtracted from beta times the margin, as in the paper and in TRL; open-instruct, HALOs and
        the authors' scripts take it relative to beta (gamma_beta_ratio).
    """

    formula: ClassVar = simpo_loss
    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    beta: float = within(above=0, advice="beta scales the log-probabilities of a token; 2 is usual for simpo")
    gamma: float = within(at_least=0, advice="gamma is the margin asked for; 0.5 is usual at beta 2")
    label_smoothing: float = within(at_least=0, below=0.5, advice=SMOOTHING)

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] simpo_loss of the margin of a token."""
        return simpo_loss(scores.margin, beta=self.beta, gamma=self.gamma, label_smoothing=self.label_smoothing)


def alpha_po_reward(mean_logprob: Tensor, *, alpha: float) -> Tensor:
    """(1 - p^(-α)) / α of the mean probability p = exp(mean_logprob), and log p, its limit, at α = 0. [B] -> [B]."""
    if alpha == 0:
        return mean_logprob
    return (1 - clamped_exp(-alpha * mean_logprob)) / alpha


def alpha_po_loss(chosen: Tensor, rejected: Tensor, *, alpha: float, beta: float, gamma: float) -> Tensor:
    """-log σ(β (R(c̄) - R(r̄)) - γ), R(x) = (1 - exp(-α x)) / α.

    Paper: Gupta et al. 2025, AlphaPO: reward shape matters for LLM alignment, arXiv:2501.03884.
    Shapes: chosen c̄ [B], rejected r̄ [B] -> [B].
    """
    margin = alpha_po_reward(chosen, alpha=alpha) - alpha_po_reward(rejected, alpha=alpha)
    return simpo_loss(margin, beta=beta, gamma=gamma, label_smoothing=0.0)


@dataclass(frozen=True, kw_only=True)
class AlphaPo(ScoreLoss):
    """SimPO with a reward that is a bent function of the mean log-probability of a token.

    beta: scales the difference of the rewards.
    gamma: γ, the reward margin that is asked for; absolute, as in simpo.
    alpha: α, how the reward is bent: 0 is simpo, above 0 unlikely completions are punished more.
    Convention: the exponent -α c̄ is clamped to ±20, beyond which the completion gets no gradient; TRL does not clamp it.
    """

    formula: ClassVar = alpha_po_loss
    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    beta: float = within(above=0, advice="beta scales the rewards; 2 is usual")
    gamma: float = within(at_least=0, advice="gamma is the margin asked for; 0.5 is usual at beta 2")
    alpha: float = within(advice="0 is simpo; 0.25 is within the range of the paper")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] alpha_po_loss of the mean log-probabilities."""
        return alpha_po_loss(scores.chosen, scores.rejected, alpha=self.alpha, beta=self.beta, gamma=self.gamma)


def simper_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """-exp(c̄) + exp(r̄).

    Paper: Xiao et al. 2025, SimPER: a minimalist approach to preference alignment without hyperparameters, arXiv:2502.00883.
    Shapes: chosen c̄ [B], rejected r̄ [B] -> [B].
    """
    return clamped_exp(rejected) - clamped_exp(chosen)


@dataclass(frozen=True, kw_only=True)
class Simper(ScoreLoss):
    """The difference of the inverse perplexities of the two completions; no hyperparameter."""

    formula: ClassVar = simper_loss
    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] simper_loss of the mean log-probabilities."""
        return simper_loss(scores.chosen, scores.rejected)
