"""Regularisers of preference algorithms: what else a policy should keep to while it learns preferences.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.loss.preference.base import PairLogprobs


@dataclass(frozen=True)
class Regularizer(ABC):
    """`regularizer(policy, reference) -> [B]`, to be made small; the weight is the algorithm's.

    requires: optional statistics of the policy that it reads ("entropy").
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """[B] one value a pair."""


@dataclass(frozen=True)
class SquaredLogRatio(Regularizer):
    """Mean over the pair's tokens of half the squared log-ratio to the reference: keeps the policy near it, token by token.

    ½ (log π(t) - log π_ref(t))²: the k2 estimator of the KL divergence (Schulman 2020, "Approximating KL divergence") on given
    tokens.
    """

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        return token_mean_of_pair(
            policy, 0.5 * (policy.chosen - reference.chosen) ** 2, 0.5 * (policy.rejected - reference.rejected) ** 2
        )


@dataclass(frozen=True)
class Entropy(Regularizer):
    """Minus the policy's mean entropy at the pair's tokens, in nats: keeps it from becoming certain (Williams & Peng 1991)."""

    requires: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        policy.require(self.requires, by="regularizer entropy")
        assert policy.chosen_entropy is not None
        assert policy.rejected_entropy is not None
        return -token_mean_of_pair(policy, policy.chosen_entropy, policy.rejected_entropy)


@dataclass(frozen=True)
class Length(Regularizer):
    """Expected number of tokens if the policy had to choose between the two completions: pushes against winning by length.

    σ(c - r) n_c + σ(r - c) n_r, with c and r the sequence log-probabilities: bounded by the two lengths.
    """

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        prefers_chosen = torch.sigmoid(policy.chosen_sum - policy.rejected_sum)
        return prefers_chosen * policy.chosen_length + (1 - prefers_chosen) * policy.rejected_length


def token_mean_of_pair(policy: PairLogprobs, chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B] mean over the tokens of both completions. chosen: [B, T], rejected: [B, T'], 0 outside of their masks."""
    tokens = (policy.chosen_length + policy.rejected_length).clamp(min=1)
    return (chosen.sum(dim=1) + rejected.sum(dim=1)) / tokens
