"""Regularisers: penalties on the policy that are added to a preference loss.

Dimensions: B pairs, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.fields import Ranged, class_of, evaluated, reads_of, with_options
from rlx.loss.base import require_shape
from rlx.loss.preference.pairs import PAIR_INPUTS, PairInputs, PairLogprobs


@dataclass(frozen=True, kw_only=True)
class Regularizer(Ranged, ABC):
    """`regularizer(policy, reference) -> [B]`, to be minimised; the algorithm has its weight.

    requires: optional statistics of the policy that it reads ("entropy").
    """

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        """One value per pair [B]."""


@dataclass(frozen=True, kw_only=True)
class RegularizerFormula(Regularizer):
    """A regulariser defined by one function; `regularizer` creates its subclasses."""

    def __call__(self, policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
        policy.require(self.requires, by=f"regularizer {type(self).__name__}")
        found = evaluated(self, PairInputs(policy, reference).__getitem__)
        return require_shape(found, (len(policy),), by=type(self).__name__, of="a value for each pair")


@with_options
def regularizer(function: Callable[..., Tensor]) -> type[Regularizer]:
    """Make a class of regularisers from its formula, which reads the inputs of a preference loss (see rlx.loss) and returns [B].

    Raises ConfigError if a parameter's name is not the name of an input.
    """
    read = [PAIR_INPUTS[name] for name in reads_of(function, PAIR_INPUTS) if name in PAIR_INPUTS]
    requires = frozenset(item.requires for item in read if item.requires is not None)
    return class_of(function, RegularizerFormula, PAIR_INPUTS, requires=requires)


@regularizer
def squared_log_ratio(policy: PairLogprobs, reference: PairLogprobs) -> Tensor:
    """½ (log π(t) - log π_ref(t))², a mean over the pair's tokens: keeps the policy near the reference, token by token.

    The k2 estimator of the KL divergence on given tokens.
    Paper: Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html.
    """
    chosen, rejected = policy.chosen - reference.chosen, policy.rejected - reference.rejected
    return token_mean_of_pair(policy, 0.5 * chosen**2, 0.5 * rejected**2)


@regularizer
def entropy(policy: PairLogprobs, chosen_entropy: Tensor, rejected_entropy: Tensor) -> Tensor:
    """Minus the policy's mean entropy at the pair's tokens, in nats: penalises low entropy.

    Paper: Williams and Peng 1991, Function optimization using connectionist reinforcement learning algorithms.
    """
    return -token_mean_of_pair(policy, chosen_entropy, rejected_entropy)


@regularizer
def length(policy_margin: Tensor, chosen_length: Tensor, rejected_length: Tensor) -> Tensor:
    """σ(c - r) n_c + σ(r - c) n_r: the expected number of tokens if the policy had to choose between the two completions.

    It discourages winning by length, and is bounded by the two lengths.
    """
    prefers_chosen = torch.sigmoid(policy_margin)
    return prefers_chosen * chosen_length + (1 - prefers_chosen) * rejected_length


def token_mean_of_pair(policy: PairLogprobs, chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B] mean over the tokens of both completions. chosen: [B, T], rejected: [B, T'], 0 outside of their masks."""
    tokens = (policy.chosen_length + policy.rejected_length).clamp(min=1)
    return (chosen.sum(dim=1) + rejected.sum(dim=1)) / tokens
