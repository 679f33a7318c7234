"""Preference losses of mean log-probabilities, which need no reference.

Dimensions: B pairs. Notation: c̄ and r̄ are the mean log-probabilities of a token of the chosen and the rejected completion
under the policy; σ the logistic function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import one_of, within
from rlx.loss.preference.base import ScoreLoss, Scores
from rlx.loss.preference.margin import SMOOTHING, dpo_conservative_loss, dpo_loss
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


# Preference losses with a likelihood term, and supervised fine-tuning on the chosen completions.

NLL = {
    "sequence_mean": lambda scores: -scores.chosen / scores.chosen_length.clamp(min=1),
    "sequence_sum": lambda scores: -scores.chosen,
}
NLL_COEFFICIENT = "a negative one would unlearn the chosen completions; 0 leaves the likelihood term out"


def cpo_loss(margin: Tensor, chosen_nll: Tensor, *, beta: float, nll_coefficient: float) -> Tensor:
    """-log σ(β (c - r)) + α NLL(chosen).

    Paper: Xu et al. 2024, Contrastive preference optimization (CPO), arXiv:2401.08417.
    Shapes: margin c - r [B], chosen_nll [B] -> [B].
    """
    return dpo_loss(margin, beta=beta) + nll_coefficient * chosen_nll


@dataclass(frozen=True, kw_only=True)
class Cpo(ScoreLoss):
    """DPO with a uniform reference, held back by the likelihood of the chosen completion.

    beta: scales the difference of the summed log-probabilities.
    nll_coefficient: α, the share of the likelihood term; 0 leaves it out.
    nll_reduction: is the likelihood term a mean or a sum over the tokens of the completion?
    Convention: TRL averages the likelihood term over all chosen tokens of the batch: that is a mixture of cpo with
        nll_coefficient 0 and nll (cpo_token_mean), for its weights differ from those of the pairs.
    """

    formula: ClassVar = cpo_loss
    needs_reference: ClassVar[bool] = False

    beta: float = within(above=0, advice="beta scales the log-probabilities; 0.1 is usual")
    nll_coefficient: float = within(at_least=0, advice=NLL_COEFFICIENT)
    nll_reduction: str = one_of(tuple(NLL))

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] cpo_loss of the margin and the chosen completion's likelihood."""
        return cpo_loss(scores.margin, NLL[self.nll_reduction](scores), beta=self.beta, nll_coefficient=self.nll_coefficient)


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log(p̄ / (1 - p̄)) of the mean probability p̄ = exp(mean_logprob), which is kept a rounding step below 1. [B] -> [B]."""
    mean_logprob = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    likely = mean_logprob > -math.log(2)
    # log(1 - p) by expm1 where p is large and by log1p where it is small; each branch gets an input at which it is finite.
    by_expm1 = torch.log(-torch.expm1(torch.where(likely, mean_logprob, -1.0)))
    by_log1p = torch.log1p(-torch.exp(torch.where(likely, -1.0, mean_logprob)))
    return mean_logprob - torch.where(likely, by_expm1, by_log1p)


def orpo_loss(chosen: Tensor, rejected: Tensor, chosen_nll: Tensor, *, beta: float) -> Tensor:
    """NLL(chosen) - β log σ(log odds(c̄) - log odds(r̄)), log odds(x) = x - log(1 - exp x).

    Paper: Hong et al. 2024, ORPO: monolithic preference optimization without reference model, eq. 6 and 7, arXiv:2403.07691.
    Shapes: chosen c̄ [B], rejected r̄ [B], chosen_nll [B] -> [B].
    """
    return chosen_nll + beta * dpo_loss(log_odds(chosen) - log_odds(rejected), beta=1.0)


@dataclass(frozen=True, kw_only=True)
class Orpo(ScoreLoss):
    """Supervised fine-tuning on the chosen completion with a penalty on the odds of the rejected one.

    beta: the share of the odds-ratio term (λ in the paper).
    Convention: the likelihood term is over the completion alone; TRL and the authors' code take prompt and completion.
    Convention: it is a mean over the completion's tokens, then over pairs; TRL has the mean over all tokens of the batch.
    """

    formula: ClassVar = orpo_loss
    needs_reference: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    beta: float = within(at_least=0, advice="a negative one would prefer the rejected completion; 0.1 is usual")

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] orpo_loss of the mean log-probabilities."""
        return orpo_loss(scores.chosen, scores.rejected, -scores.chosen, beta=self.beta)


def slic_loss(margin: Tensor, chosen_nll: Tensor, *, target_margin: float, nll_coefficient: float) -> Tensor:
    """max(0, δ - (c - r)) + λ NLL(chosen).

    Paper: Zhao et al. 2023, SLiC-HF: sequence likelihood calibration with human feedback, arXiv:2305.10425.
    Shapes: margin c - r [B], chosen_nll [B] -> [B].
    """
    return F.relu(target_margin - margin) + nll_coefficient * chosen_nll


@dataclass(frozen=True, kw_only=True)
class Slic(ScoreLoss):
    """A hinge on the difference of the log-probabilities, held back by the likelihood of the chosen completion.

    target_margin: δ, the difference of log-probabilities beyond which a pair teaches nothing more.
    nll_coefficient: λ, the share of the likelihood term; 0 leaves it out.
    nll_reduction: is the likelihood term a mean or a sum over the tokens of the completion?
    Convention: hinge is the same idea with log-ratios to a reference.
    """

    formula: ClassVar = slic_loss
    needs_reference: ClassVar[bool] = False

    target_margin: float = within(above=0, advice="it is the margin asked for; 1 is usual")
    nll_coefficient: float = within(at_least=0, advice=NLL_COEFFICIENT)
    nll_reduction: str = one_of(tuple(NLL))

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] slic_loss of the margin and the chosen completion's likelihood."""
        nll = NLL[self.nll_reduction](scores)
        return slic_loss(scores.margin, nll, target_margin=self.target_margin, nll_coefficient=self.nll_coefficient)


def nll_loss(chosen_nll: Tensor) -> Tensor:
    """-c / n_c or -c; the weights make it the mean over tokens or over completions.

    Paper: Radford et al. 2018, Improving language understanding by generative pre-training, section 3.2.
    Shapes: chosen_nll, the mean or the sum over the tokens of a completion [B] -> [B].
    """
    return chosen_nll


@dataclass(frozen=True, kw_only=True)
class Nll(ScoreLoss):
    """Negative log-likelihood of the chosen completions, a mean over all their tokens.

    Convention: every token of the batch weighs the same, as in TRL; nll_sequence_mean weighs every completion the same.
    """

    formula: ClassVar = nll_loss
    needs_reference: ClassVar[bool] = False
    reads_rejected: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] nll_loss of the chosen completion."""
        return nll_loss(-scores.chosen)

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B] each pair by the length of its chosen completion. completion_mask: bool [B, T] of the chosen ones, or [B, 2, T]."""
        chosen_mask = completion_mask[:, 0] if completion_mask.ndim == 3 else completion_mask
        lengths = chosen_mask.sum(dim=1, dtype=torch.float64)
        return lengths / lengths.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class NllSequenceMean(ScoreLoss):
    """Negative log-likelihood of the chosen completions: the mean over the tokens of each, then over completions.

    Convention: every completion weighs the same, as in the likelihood term of RPO and MPO; nll weighs every token the same.
    """

    formula: ClassVar = nll_loss
    needs_reference: ClassVar[bool] = False
    reads_rejected: ClassVar[bool] = False
    per_token: ClassVar[bool] = True

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] nll_loss of the chosen completion."""
        return nll_loss(-scores.chosen)


@dataclass(frozen=True, kw_only=True)
class NllSequenceSum(ScoreLoss):
    """Negative log-likelihood of the chosen completions: the sum over the tokens of each, then the mean over completions.

    Convention: a completion weighs by its length, as in NeMo's sft term without sft_average_log_probs.
    """

    formula: ClassVar = nll_loss
    needs_reference: ClassVar[bool] = False
    reads_rejected: ClassVar[bool] = False

    def of_scores(self, scores: Scores) -> Tensor:
        """[B] nll_loss of the chosen completion."""
        return nll_loss(-scores.chosen)
