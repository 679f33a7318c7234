"""Preference losses on log-probabilities, which need no reference, and the likelihood of the chosen completions.

Dimensions: B pairs. Notation: c and r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c̄ and r̄ their means over tokens; σ the logistic function.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import one_of, within
from rlx.loss.base import clamped_exp, stop_gradient
from rlx.loss.preference.base import preference_loss
from rlx.loss.preference.margin import Smoothing

Gamma = Annotated[float, within(at_least=0, advice="gamma is the margin asked for; 0.5 is usual at beta 2")]


@preference_loss
def simpo(
    mean_policy_margin: Tensor,
    *,
    beta: Annotated[float, within(above=0, advice="beta scales the log-probabilities of a token; 2 is usual for simpo")] = 2.0,
    gamma: Gamma = 0.5,
    label_smoothing: Smoothing = 0.0,
) -> Tensor:
    """-(1-ε) log σ(z) - ε log σ(-z), z = β (c̄ - r̄) - γ.

    A logistic loss on mean log-probabilities per token, with a target margin and without a reference.
    Paper: Meng et al. 2024, SimPO: simple preference optimization, eq. 6, arXiv:2405.14734.
    Shapes: mean_policy_margin c̄ - r̄ [B] -> [B].
    beta: scales the difference of the mean log-probabilities.
    gamma: γ, the target reward margin.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is the loss of the paper.
    Convention: gamma is absolute, subtracted from beta times the margin, as in the paper and in TRL; open-instruct, HALOs and
        the authors' scripts take it relative to beta (gamma_beta_ratio).
    """
    logits = beta * mean_policy_margin - gamma
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def alpha_po_reward(mean_logprob: Tensor, *, alpha: float) -> Tensor:
    """(1 - p^(-α)) / α of the mean probability p = exp(mean_logprob), and log p, its limit, at α = 0. [B] -> [B]."""
    if alpha == 0:
        return mean_logprob
    return (1 - clamped_exp(-alpha * mean_logprob)) / alpha


@preference_loss
def alpha_po(
    mean_chosen_logprob: Tensor,
    mean_rejected_logprob: Tensor,
    *,
    beta: Annotated[float, within(above=0, advice="beta scales the rewards; 2 is usual")] = 2.0,
    gamma: Gamma = 0.5,
    alpha: Annotated[float, within(advice="0 is simpo; 0.25 is within the range of the paper")] = 0.25,
) -> Tensor:
    """-log σ(β (R(c̄) - R(r̄)) - γ), R(x) = (1 - exp(-α x)) / α.

    SimPO with a reward that is a nonlinear function of the mean log-probability per token.
    Paper: Gupta et al. 2025, AlphaPO: reward shape matters for LLM alignment, arXiv:2501.03884.
    Shapes: mean_chosen_logprob c̄ [B], mean_rejected_logprob r̄ [B] -> [B].
    beta: scales the difference of the rewards.
    gamma: γ, the target reward margin; absolute, as in simpo.
    alpha: α, the curvature of the reward: 0 is simpo; above 0, unlikely completions are penalised more.
    Convention: the exponent -α c̄ is clamped to ±20, beyond which the completion gets no gradient; TRL does not clamp it.
    """
    margin = alpha_po_reward(mean_chosen_logprob, alpha=alpha) - alpha_po_reward(mean_rejected_logprob, alpha=alpha)
    return -F.logsigmoid(beta * margin - gamma)


@preference_loss
def simper(mean_chosen_logprob: Tensor, mean_rejected_logprob: Tensor) -> Tensor:
    """-exp(c̄) + exp(r̄).

    The difference of the inverse perplexities of the two completions, without hyperparameters.
    Paper: Xiao et al. 2025, SimPER: a minimalist approach to preference alignment without hyperparameters, arXiv:2502.00883.
    Shapes: mean_chosen_logprob c̄ [B], mean_rejected_logprob r̄ [B] -> [B].
    """
    return clamped_exp(mean_rejected_logprob) - clamped_exp(mean_chosen_logprob)


# With a likelihood term.

REDUCTIONS = ("sequence_mean", "sequence_sum")
Reduction = Annotated[str, one_of(REDUCTIONS)]
NllCoefficient = Annotated[
    float, within(at_least=0, advice="a negative one would unlearn the chosen completions; 0 leaves the likelihood term out")
]


def negative_log_likelihood(logprob: Tensor, length: Tensor, *, reduction: str) -> Tensor:
    """-c / n_c (sequence_mean) or -c (sequence_sum). logprob, length: [B] -> [B]."""
    return -logprob / length.clamp(min=1) if reduction == "sequence_mean" else -logprob


@preference_loss
def cpo(
    policy_margin: Tensor,
    chosen_logprob: Tensor,
    chosen_length: Tensor,
    *,
    beta: Annotated[float, within(above=0, advice="beta scales the log-probabilities; 0.1 is usual")] = 0.1,
    nll_coefficient: NllCoefficient = 1.0,
    nll_reduction: Reduction = "sequence_mean",
) -> Tensor:
    """-log σ(β (c - r)) + α NLL(chosen).

    DPO with a uniform reference, regularised by the likelihood of the chosen completion.
    Paper: Xu et al. 2024, Contrastive preference optimization (CPO), arXiv:2401.08417.
    Shapes: policy_margin c - r [B], chosen_logprob c [B], chosen_length [B] -> [B].
    beta: scales the difference of the summed log-probabilities.
    nll_coefficient: α, the coefficient of the likelihood term; 0 leaves it out.
    nll_reduction: is the likelihood term a mean or a sum over the tokens of the completion?
    Convention: TRL averages the likelihood term over all chosen tokens of the batch; for that use cpo_token_mean, a mixture
        of cpo with nll_coefficient 0 and nll, as its weights differ from those of the pairs.
    """
    nll = negative_log_likelihood(chosen_logprob, chosen_length, reduction=nll_reduction)
    return -F.logsigmoid(beta * policy_margin) + nll_coefficient * nll


def log_odds(mean_logprob: Tensor) -> Tensor:
    """log(p̄ / (1 - p̄)) of the mean probability p̄ = exp(mean_logprob), which is kept a rounding step below 1. [B] -> [B]."""
    mean_logprob = mean_logprob.clamp(max=-torch.finfo(mean_logprob.dtype).eps)
    likely = mean_logprob > -math.log(2)
    # log(1 - p) by expm1 for large p and by log1p for small p; each branch gets an input at which it is finite.
    by_expm1 = torch.log(-torch.expm1(torch.where(likely, mean_logprob, -1.0)))
    by_log1p = torch.log1p(-torch.exp(torch.where(likely, -1.0, mean_logprob)))
    return mean_logprob - torch.where(likely, by_expm1, by_log1p)


@preference_loss
def orpo(
    mean_chosen_logprob: Tensor,
    mean_rejected_logprob: Tensor,
    *,
    beta: Annotated[float, within(at_least=0, advice="a negative one would prefer the rejected completion; 0.1 is usual")] = 0.1,
) -> Tensor:
    """-c̄ - β log σ(log odds(c̄) - log odds(r̄)), log odds(x) = x - log(1 - exp x).

    Supervised fine-tuning on the chosen completion with a penalty on the odds of the rejected one.
    Paper: Hong et al. 2024, ORPO: monolithic preference optimization without reference model, eq. 6 and 7, arXiv:2403.07691.
    Shapes: mean_chosen_logprob c̄ [B], mean_rejected_logprob r̄ [B] -> [B].
    beta: the coefficient of the odds-ratio term (λ in the paper).
    Convention: the likelihood term covers the completion only; in TRL and the authors' code it covers the prompt too.
    Convention: it is a mean over the completion's tokens, then over pairs; TRL takes the mean over all tokens of the batch.
    """
    return -mean_chosen_logprob - beta * F.logsigmoid(log_odds(mean_chosen_logprob) - log_odds(mean_rejected_logprob))


@preference_loss
def slic(
    policy_margin: Tensor,
    chosen_logprob: Tensor,
    chosen_length: Tensor,
    *,
    target_margin: Annotated[float, within(above=0, advice="it is the margin asked for; 1 is usual")] = 1.0,
    nll_coefficient: NllCoefficient = 0.1,
    nll_reduction: Reduction = "sequence_sum",
) -> Tensor:
    """max(0, δ - (c - r)) + λ NLL(chosen).

    A hinge on the difference of the log-probabilities, regularised by the likelihood of the chosen completion.
    Paper: Zhao et al. 2023, SLiC-HF: sequence likelihood calibration with human feedback, arXiv:2305.10425.
    Shapes: policy_margin c - r [B], chosen_logprob c [B], chosen_length [B] -> [B].
    target_margin: δ, the difference of log-probabilities beyond which the hinge has no gradient.
    nll_coefficient: λ, the coefficient of the likelihood term; 0 leaves it out.
    nll_reduction: is the likelihood term a mean or a sum over the tokens of the completion?
    Convention: hinge is the same idea with log-ratios to a reference.
    """
    nll = negative_log_likelihood(chosen_logprob, chosen_length, reduction=nll_reduction)
    return F.relu(target_margin - policy_margin) + nll_coefficient * nll


@preference_loss
def repo(
    mean_policy_margin: Tensor,
    *,
    gamma: Annotated[float, within(above=0, advice="gamma is the margin asked for, between 0 and 1 in the paper")] = 0.5,
) -> Tensor:
    """max(0, γ - (c̄ - r̄)).

    A hinge on the difference of mean log-probabilities: SimPO as beta goes to infinity, with one hyperparameter.
    Paper: Wu et al. 2025, RePO: ReLU-based preference optimization, arXiv:2503.07426.
    Shapes: mean_policy_margin c̄ - r̄ [B] -> [B].
    gamma: γ, the margin of mean token log-probabilities beyond which a pair has no gradient.
    """
    return F.relu(gamma - mean_policy_margin)


# The likelihood of the chosen completions alone.


def by_chosen_length(completion_mask: Tensor) -> Tensor:
    """[B] weights by the length of the chosen completions. completion_mask: bool [B, T] of the chosen ones, or [B, 2, T]."""
    chosen_mask = completion_mask[:, 0] if completion_mask.ndim == 3 else completion_mask
    lengths = chosen_mask.sum(dim=1, dtype=torch.float64)
    return lengths / lengths.sum().clamp(min=1)


@preference_loss(weights=by_chosen_length)
def nll(mean_chosen_logprob: Tensor) -> Tensor:
    """-c / n_c, each completion weighted by its length.

    Negative log-likelihood of the chosen completions, a mean over all their tokens.
    Paper: Radford et al. 2018, Improving language understanding by generative pre-training, section 3.2.
    Shapes: mean_chosen_logprob c / n_c [B] -> [B].
    Convention: every token of the batch has the same weight, as in TRL; in nll_sequence_mean every completion has.
    """
    return -mean_chosen_logprob


@preference_loss(weights=by_chosen_length)
def dft(chosen_token_logprobs: Tensor, chosen_length: Tensor) -> Tensor:
    """Σ_t -sg(π_t) log π_t / n_c, each completion weighted by its length.

    Dynamic fine-tuning: the likelihood of the chosen completions, each token weighted by its own probability.
    Paper: Wu et al. 2025, On the generalization of SFT: a reinforcement learning perspective with reward rectification (DFT),
        arXiv:2508.05629.
    Shapes: chosen_token_logprobs log π [B, T], chosen_length n_c [B] -> [B].
    Convention: every token of the batch has the same weight, as in nll; its value is not an objective, only its gradient matters.
    """
    weighed = stop_gradient(chosen_token_logprobs.exp()) * chosen_token_logprobs
    return -weighed.sum(dim=1) / chosen_length.clamp(min=1)


@preference_loss
def nll_sequence_mean(mean_chosen_logprob: Tensor) -> Tensor:
    """-c / n_c.

    Negative log-likelihood of the chosen completions: the mean over the tokens of each, then over completions.
    Paper: Radford et al. 2018, Improving language understanding by generative pre-training, section 3.2.
    Shapes: mean_chosen_logprob c / n_c [B] -> [B].
    Convention: every completion has the same weight, as in the likelihood term of RPO and MPO; in nll every token has.
    """
    return -mean_chosen_logprob


@preference_loss
def nll_sequence_sum(chosen_logprob: Tensor) -> Tensor:
    """-c.

    Negative log-likelihood of the chosen completions: the sum over the tokens of each, then the mean over completions.
    Paper: Radford et al. 2018, Improving language understanding by generative pre-training, section 3.2.
    Shapes: chosen_logprob c [B] -> [B].
    Convention: completions are weighted by their length, as in NeMo's sft term without sft_average_log_probs.
    """
    return -chosen_logprob
