"""Weights of token values: what a batch's loss is a mean of. They depend on masks and lengths alone.

Computed once over all rows that one optimiser update sees, then cut with the rows: so micro-batches add up to the whole.
In this field the weights are the variant: they decide how much a long completion counts.
Dimensions: B sequences (leading dimensions [P, G] will do too), T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.fields import check_hyperparameters, within


def token_mean(completion_mask: Tensor) -> Tensor:
    """1 / (tokens of the batch) at each token: every token counts the same. bool [B, T] -> [B, T]."""
    mask = completion_mask.to(torch.float64)
    return mask / mask.sum().clamp(min=1)


def sequence_mean(completion_mask: Tensor, *, count_empty: bool = False) -> Tensor:
    """1 / (sequences · tokens of the sequence) at each token: every sequence counts the same. bool [B, T] -> [B, T]."""
    mask = completion_mask.to(torch.float64)
    return mask / mask.sum(dim=-1, keepdim=True).clamp(min=1) / _count(completion_mask, count_empty=count_empty)


def sequence_sum(completion_mask: Tensor, *, count_empty: bool = False) -> Tensor:
    """1 / sequences at each token: a sequence counts by its length, as its probability does. bool [B, T] -> [B, T]."""
    return completion_mask.to(torch.float64) / _count(completion_mask, count_empty=count_empty)


def constant_length(completion_mask: Tensor, *, length: int) -> Tensor:
    """1 / (rows · length) at each token (Liu et al. 2025, Dr. GRPO, arXiv:2503.20783). bool [B, T] -> [B, T]."""
    rows = completion_mask[..., 0].numel() if completion_mask.shape[-1] else 0
    return completion_mask.to(torch.float64) / max(rows * length, 1)


def _count(completion_mask: Tensor, *, count_empty: bool) -> Tensor:
    """[] the sequences that have a token, or all rows; at least 1."""
    filled = completion_mask.any(dim=-1)
    return (torch.ones_like(filled) if count_empty else filled).sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Weighting(ABC):
    """A choice of weights; call it with the completion mask of all rows of an update."""

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    @abstractmethod
    def __call__(self, completion_mask: Tensor) -> Tensor:
        """bool [B, T] -> weights [B, T], 0 outside of the mask."""


@dataclass(frozen=True, kw_only=True)
class TokenMean(Weighting):
    """Mean over all tokens of the batch (DAPO; verl token-mean; TRL dapo): long completions count more."""

    def __call__(self, completion_mask: Tensor) -> Tensor:
        """token_mean."""
        return token_mean(completion_mask)


@dataclass(frozen=True, kw_only=True)
class SequenceMean(Weighting):
    """Mean over the tokens of each sequence, then over sequences (GRPO; verl seq-mean-token-mean; TRL grpo).

    count_empty: does a completion without a token count as a sequence? TRL counts it, verl and NeMo do not.
    """

    count_empty: bool

    def __call__(self, completion_mask: Tensor) -> Tensor:
        """sequence_mean."""
        return sequence_mean(completion_mask, count_empty=self.count_empty)


@dataclass(frozen=True, kw_only=True)
class SequenceSum(Weighting):
    """Sum over the tokens of each sequence, mean over sequences (RLOO, LUSPO; verl seq-mean-token-sum).

    count_empty: does a completion without a token count as a sequence? TRL counts it, verl and NeMo do not.
    """

    count_empty: bool

    def __call__(self, completion_mask: Tensor) -> Tensor:
        """sequence_sum."""
        return sequence_sum(completion_mask, count_empty=self.count_empty)


@dataclass(frozen=True, kw_only=True)
class ConstantLength(Weighting):
    """Sum over all tokens divided by rows times a constant (Dr. GRPO; verl seq-mean-token-sum-norm): no length bias.

    length: the constant, usually the longest completion allowed; it scales the loss and changes nothing else.
    """

    length: int = within(at_least=1, whole=True, advice="take the longest completion that is sampled")

    def __call__(self, completion_mask: Tensor) -> Tensor:
        """constant_length."""
        return constant_length(completion_mask, length=self.length)
