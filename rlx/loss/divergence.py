"""f-divergences other than the reverse KL: another function of the log-ratio in the place of the log-ratio.

A policy held to its reference by an f-divergence has the implicit reward β f'(π/π0); with the reverse KL f' is the log-ratio x.
Wang et al. 2023, Beyond reverse KL, arXiv:2309.16240. All of them are 0 at x = 0, where policy and reference agree. Without
such constants, as in some systems, a margin of sums is the same, but one of means over different lengths is shifted.
Dimensions: B pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.loss.base import PreferenceModifier
from rlx.loss.hyperparameter import within

EXPONENT_LIMIT = 40.0  # e^40 is 2e17, whose square is finite in float32; sequences reach log-ratios far beyond the 20 of a token


def forward_kl_score(log_ratio: Tensor) -> Tensor:
    """1 - e^(-x): f' of the forward KL; -x is capped at 40. [B] -> [B]."""
    return 1 - torch.exp((-log_ratio).clamp(max=EXPONENT_LIMIT))


def jensen_shannon_score(log_ratio: Tensor) -> Tensor:
    """log 2 + log σ(x): f' of the Jensen-Shannon divergence. [B] -> [B]."""
    return math.log(2) + F.logsigmoid(log_ratio)


def alpha_score(log_ratio: Tensor, *, alpha: float) -> Tensor:
    """(e^((α-1) x) - 1) / (α - 1), x at α = 1: f' of the α-divergence; the exponent is capped at 40. [B] -> [B]."""
    if abs(alpha - 1) < 1e-6:
        return log_ratio
    return (torch.exp(((alpha - 1) * log_ratio).clamp(max=EXPONENT_LIMIT)) - 1) / (alpha - 1)


@dataclass(frozen=True, kw_only=True)
class _Divergence(PreferenceModifier):
    changes_scores: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class ReverseKl(_Divergence):
    """The log-ratio itself: what every loss has without a divergence."""


@dataclass(frozen=True, kw_only=True)
class ForwardKl(_Divergence):
    """Forward KL: drift towards completions that the reference finds unlikely costs little, forgetting likely ones much."""

    formula: ClassVar = forward_kl_score

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] forward_kl_score."""
        return forward_kl_score(log_ratio)


@dataclass(frozen=True, kw_only=True)
class JensenShannon(_Divergence):
    """Jensen-Shannon divergence: between the two KLs; the score of a completion is at most log 2."""

    formula: ClassVar = jensen_shannon_score

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] jensen_shannon_score."""
        return jensen_shannon_score(log_ratio)


@dataclass(frozen=True, kw_only=True)
class AlphaDivergence(_Divergence):
    """The α-divergence.

    alpha: α; 1 is the reverse KL, 0 the forward KL, 0.5 lies between.
    """

    formula: ClassVar = alpha_score

    alpha: float = within(at_least=0, at_most=1, advice="1 is the reverse KL, 0 the forward KL")

    def score(self, log_ratio: Tensor) -> Tensor:
        """[B] alpha_score."""
        return alpha_score(log_ratio, alpha=self.alpha)
