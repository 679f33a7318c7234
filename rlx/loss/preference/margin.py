"""DPO and its closest variants: losses of the margin of two log-ratios.

Dimensions: B pairs. Notation: c, r are the summed log-probabilities of the chosen and the rejected completion under the
policy, c0 and r0 under the reference, n_c and n_r their lengths; a = c - c0, b = r - r0, margin Δ = a - b; σ the logistic
function.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.fields import within
from rlx.loss.base import stop_gradient
from rlx.loss.preference.base import preference_loss

SIGN = "beta scales the log-ratios, so its sign would turn the preference around; 0.1 is usual for dpo"
WRONG = "label_smoothing is the share of labels that are wrong; half of them wrong says nothing"
Beta = Annotated[float, within(above=0, advice=SIGN)]
TargetBeta = Annotated[float, within(above=0, advice="the margin is regressed to 1/(2 beta); 0.1 is usual for ipo")]
Smoothing = Annotated[float, within(at_least=0, below=0.5, advice=WRONG)]


@preference_loss
def dpo(margin: Tensor, *, beta: Beta = 0.1) -> Tensor:
    """-log σ(β Δ).

    Direct preference optimisation: a logistic regression on implicit rewards.
    Paper: Rafailov et al. 2023, Direct Preference Optimization, eq. 7, arXiv:2305.18290.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    Convention: log-probabilities are summed over the completion, its end-of-sequence token included.
    Convention: rewards_chosen and rewards_rejected are beta times the log-ratio; NeMo RL logs the log-ratio alone.
    Convention: without label smoothing; dpo_conservative and dpo_robust are two different ways to add it.
    """
    return -F.logsigmoid(beta * margin)


@preference_loss
def dpo_conservative(margin: Tensor, *, beta: Beta = 0.1, label_smoothing: Smoothing = 0.1) -> Tensor:
    """-(1-ε) log σ(β Δ) - ε log σ(-β Δ).

    DPO for labels of which a share ε is flipped: the margin has a finite optimum instead of growing without bound.
    Paper: Mitchell 2023, A note on DPO with noisy preferences, https://ericmitchell.ai/cdpo.pdf.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is dpo.
    Convention: TRL's loss_type sigmoid ignores label_smoothing; OpenRLHF, torchtune and HALOs use this formula.
    """
    return -(1 - label_smoothing) * F.logsigmoid(beta * margin) - label_smoothing * F.logsigmoid(-beta * margin)


@preference_loss
def dpo_robust(margin: Tensor, *, beta: Beta = 0.1, label_smoothing: Smoothing = 0.1) -> Tensor:
    """(-(1-ε) log σ(β Δ) + ε log σ(-β Δ)) / (1 - 2ε).

    DPO whose expectation over labels flipped with probability ε is the loss on the true labels; unbounded below.
    Paper: Chowdhury et al. 2024, Provably robust DPO, arXiv:2403.00409.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; 0 is dpo.
    """
    noisy = -(1 - label_smoothing) * F.logsigmoid(beta * margin) + label_smoothing * F.logsigmoid(-beta * margin)
    return noisy / (1 - 2 * label_smoothing)


@preference_loss
def dpo_normalized(
    mean_margin: Tensor,
    *,
    beta: Annotated[float, within(above=0, advice="beta scales the log-ratios of a token; 5 is usual for dpo_normalized")] = 5.0,
) -> Tensor:
    """-log σ(β (a/n_c - b/n_r)).

    DPO on mean log-ratios per token; n_c and n_r are the lengths of the completions.
    Paper: Lambert et al. 2024, Tülu 3: pushing frontiers in open language model post-training, arXiv:2411.15124.
    Shapes: mean_margin a/n_c - b/n_r [B] -> [B].
    beta: how strongly the policy is held to the reference; as the margin is per token, about 5 corresponds to dpo's 0.1.
    Convention: an f-divergence is applied to the summed log-ratio, before it is divided by the length, as in TRL.
    """
    return -F.logsigmoid(beta * mean_margin)


# The same margin with other functions than the logistic loss.


@preference_loss
def exo(
    margin: Tensor,
    *,
    beta: Beta = 0.1,
    label_smoothing: Annotated[
        float, within(above=0, below=0.5, advice="the reverse KL to a label that is certain is infinite; try 0.001")
    ] = 0.001,
) -> Tensor:
    """q (log q - log(1-ε)) + (1-q) (log(1-q) - log ε), q = σ(β Δ).

    The reverse KL between the policy's choice within the pair and a label of which a share ε is wrong.
    Paper: Ji et al. 2024, Towards efficient exact optimization (EXO), eq. 16 for two completions, arXiv:2402.00856.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    label_smoothing: ε, the share of labels believed to be wrong; must be above 0, as the reverse KL is infinite at 0.
    Convention: label_smoothing = 0 is refused, as in TRL; 0.001 is usual.
    """
    chosen = torch.sigmoid(beta * margin) * (F.logsigmoid(beta * margin) - math.log1p(-label_smoothing))
    rejected = torch.sigmoid(-beta * margin) * (F.logsigmoid(-beta * margin) - math.log(label_smoothing))
    return chosen + rejected


@preference_loss
def discopop(
    margin: Tensor,
    *,
    beta: Beta = 0.1,
    temperature: Annotated[
        float, within(above=0, at_most=1, advice="above 1 the exponential part overflows; 0.05 is that of the paper")
    ] = 0.05,
) -> Tensor:
    """-(1-m) log σ(l) + m exp(-l), l = β Δ, m = σ(l / τ).

    A blend of the logistic and the exponential loss, discovered by a language model; not convex near 0.
    Paper: Lu et al. 2024, Discovering preference optimization algorithms (DiscoPOP), eq. 5, arXiv:2406.08414.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    temperature: τ, how sharply the blend turns from logistic (negative margin) to exponential (positive).
    """
    logits = beta * margin
    # m exp(-l) = exp(log m - l) is finite if τ <= 1; exp(-l) alone overflows for a large negative margin.
    exponential = torch.exp(F.logsigmoid(logits / temperature) - logits)
    return -torch.sigmoid(-logits / temperature) * F.logsigmoid(logits) + exponential


@preference_loss
def focal_po(
    margin: Tensor,
    *,
    beta: Beta = 0.1,
    focus: Annotated[float, within(at_least=0, advice="0 is dpo; 0.05 is a start")] = 0.05,
) -> Tensor:
    """-p^γ log p, p = σ(β Δ).

    DPO that focuses on correctly ranked pairs: wrongly ranked pairs get less weight, where a focal loss gives them more.
    Paper: Liu et al. 2025, FocalPO: focusing on correct preference rankings, arXiv:2501.06645.
    Shapes: margin Δ [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    focus: γ, how much less weight a wrongly ranked pair gets; 0 is dpo.
    Convention: the gradient flows through p^γ too; below log p = -1/γ it turns against the chosen completion.
    """
    log_chance = F.logsigmoid(beta * margin)
    return -torch.exp(focus * log_chance) * log_chance


# Losses with a target margin: a regression to it, or a hinge.


@preference_loss
def ipo(margin: Tensor, *, beta: TargetBeta = 0.1) -> Tensor:
    """(Δ - 1/(2β))².

    Identity preference optimisation: regresses the margin of summed log-ratios to 1/(2β), so that it cannot grow without bound.
    Paper: Azar et al. 2023, A general theoretical paradigm (IPO), eq. 17, arXiv:2310.12036.
    Shapes: margin Δ [B] -> [B].
    beta: the target margin is 1/(2 beta): a larger one keeps the policy closer to the reference.
    Convention: sums, as in the paper, the DPO authors' code and OpenRLHF; ipo_normalized divides by length, as TRL does.
    """
    return (margin - 1 / (2 * beta)) ** 2


@preference_loss
def ipo_normalized(mean_margin: Tensor, *, beta: TargetBeta = 0.1) -> Tensor:
    """(a/n_c - b/n_r - 1/(2β))².

    Identity preference optimisation on mean log-ratios per token.
    Paper: Azar et al. 2023, eq. 17, arXiv:2310.12036; the authors confirmed the division by length to TRL.
    Shapes: mean_margin a/n_c - b/n_r [B] -> [B].
    beta: the target margin per token is 1/(2 beta): a larger one keeps the policy closer to the reference.
    Convention: ipo is the same formula with sums.
    """
    return (mean_margin - 1 / (2 * beta)) ** 2


@preference_loss
def hinge(margin: Tensor, *, beta: Beta = 0.1) -> Tensor:
    """max(0, 1 - β Δ).

    The hinge loss of RSO: a pair whose scaled margin exceeds 1 has no gradient.
    Paper: Liu et al. 2023, Statistical rejection sampling (RSO), arXiv:2309.06657; Zhao et al. 2023 (SLiC), arXiv:2305.10425.
    Shapes: margin Δ [B] -> [B].
    beta: the inverse of the target margin of log-ratios.
    Convention: the margin is of log-ratios to the reference; slic uses log-probabilities and adds a likelihood term.
    """
    return F.relu(1 - beta * margin)


# DPO with a shifted margin (by a penalty, by lengths, by a second KL), or with a regression of each log-ratio.


@preference_loss
def dpop(
    margin: Tensor,
    chosen: Tensor,
    *,
    beta: Beta = 0.1,
    penalty: Annotated[
        float, within(at_least=0, advice="a negative penalty would reward forgetting the chosen completion; try 5")
    ] = 5.0,
) -> Tensor:
    """-log σ(β (Δ - λ max(0, -a))).

    DPO with a penalty while the chosen completion is less likely than under the reference.
    Paper: Pal et al. 2024, Smaug: fixing failure modes of preference optimisation (DPOP), eq. 3, arXiv:2402.13228.
    Shapes: margin Δ [B], chosen a [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    penalty: λ, the penalty per nat of log-probability that the chosen completion lost; 0 is dpo, the paper has 50.
    """
    return -F.logsigmoid(beta * (margin - penalty * F.relu(-chosen)))


@preference_loss
def r_dpo(
    margin: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: Beta = 0.1,
    length_penalty: Annotated[
        float, within(at_least=0, advice="a negative one would reward length; 0.01 to 0.1 is usual")
    ] = 0.01,
) -> Tensor:
    """-log σ(β Δ + α (n_c - n_r)).

    DPO for a reward with a penalty of α per token: a longer chosen completion needs a smaller margin.
    Paper: Park et al. 2024, Disentangling length from quality (R-DPO), arXiv:2403.19159.
    Shapes: margin Δ [B], chosen_length n_c [B], rejected_length n_r [B] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    length_penalty: α, the penalty per token, in units of the reward; 0 is dpo.
    Convention: the sign follows from the objective reward - α n - β KL, at whose optimum reward = β log(π/π0) + α n; some
        write-ups have the opposite sign.
    """
    return -F.logsigmoid(beta * margin + length_penalty * (chosen_length - rejected_length))


@preference_loss
def cal_dpo(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: Annotated[
        float, within(above=0, advice="the log-ratios are regressed to 1/(2 beta); 0.001 is that of the paper")
    ] = 0.001,
) -> Tensor:
    """-log σ(a - b) + (a - 1/(2β))² + (b + 1/(2β))².

    DPO that also regresses the log-ratios to the rewards 1/2 and -1/2 divided by beta.
    Paper: Xiao et al. 2024, Cal-DPO: calibrated direct preference optimization, arXiv:2412.14516.
    Shapes: chosen a [B], rejected b [B] -> [B].
    beta: sets the targets 1/(2 beta) and -1/(2 beta) of the log-ratios; a larger one keeps the policy closer to the reference.
    """
    target = 1 / (2 * beta)
    return -F.logsigmoid(chosen - rejected) + (chosen - target) ** 2 + (rejected + target) ** 2


@preference_loss
def tdpo(
    margin: Tensor,
    chosen_vocabulary_kl: Tensor,
    rejected_vocabulary_kl: Tensor,
    *,
    beta: Beta = 0.1,
    kl_scale: Annotated[
        float,
        within(at_least=0, advice="a negative one would reward drift on the rejected completion; 0.5 is that of the paper"),
    ] = 0.5,
) -> Tensor:
    """-log σ(β (Δ - α (KL_r - sg(KL_c)))), KL the sum over tokens of KL(reference || policy) over the vocabulary.

    DPO that balances the token-level KL of the two completions; the second of the paper's two forms.
    Paper: Zeng et al. 2024, Token-level direct preference optimization (TDPO2), arXiv:2404.11999.
    Shapes: margin Δ [B], chosen_vocabulary_kl [B, T], rejected_vocabulary_kl [B, T'] -> [B].
    beta: how strongly the policy is held to the reference; a larger one keeps it closer.
    kl_scale: α, how strongly the rejected completion's KL is held to the chosen one's; 0 is dpo.
    """
    chosen_kl, rejected_kl = chosen_vocabulary_kl.sum(dim=1), rejected_vocabulary_kl.sum(dim=1)
    return -F.logsigmoid(beta * (margin - kl_scale * (rejected_kl - stop_gradient(chosen_kl))))
