"""DPO and its nearest relatives: logistic losses of the margin of two log-ratios.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference, n_c and n_r their lengths; a = c - c0, b = r - r0, margin Δ = a - b; σ the logistic
function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.preference.base import PairLogprobs, PreferenceLoss, ScoreLoss, Scores, masked
from rlx.loss.ratio import stop_gradient

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


# Preference losses of the same margin as DPO on another curve.


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


# Preference losses that ask for a certain margin and no more: a regression to it, or a hinge.


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


# Preference losses that shift the margin of DPO: by an offset, a penalty, a second KL.


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
