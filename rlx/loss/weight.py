"""Weights of token values: how a batch's loss is averaged. They depend on masks and lengths alone.

They are computed once over all rows of one optimiser update, then sliced with the rows, so micro-batches add up to the whole.
Many published variants differ only in these weights, which decide how much a long completion counts.
Dimensions: B sequences (leading dimensions [P, G] work too), T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rlx.fields import Ranged, class_of, evaluated, with_options, within
from rlx.loss.base import by_sequence


@dataclass(frozen=True, kw_only=True)
class Weighting(Ranged):
    """A choice of weights; call it with the completion mask of all rows of an update. `weighting` creates its subclasses."""

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(self, completion_mask: Tensor) -> Tensor:
        """bool [B, T] -> weights [B, T], 0 outside of the mask."""
        found: Tensor = evaluated(self, lambda _: by_sequence(completion_mask))
        return found.reshape(completion_mask.shape)


@with_options
def weighting(function: Callable[..., Tensor]) -> type[Weighting]:
    """Make a class of token weights from its formula, a function of completion_mask, bool [B, T] -> [B, T]."""
    return class_of(function, Weighting, ("completion_mask",))


@weighting
def token_mean(completion_mask: Tensor) -> Tensor:
    """Mean over all tokens of the batch (DAPO; verl token-mean; TRL dapo): long completions count more.

    1 / (tokens of the batch) at each token. bool [B, T] -> [B, T].
    """
    mask = completion_mask.to(torch.float64)
    return mask / mask.sum().clamp(min=1)


@weighting
def sequence_mean(completion_mask: Tensor, *, count_empty: bool = False) -> Tensor:
    """Mean over the tokens of each sequence, then over sequences (GRPO; verl seq-mean-token-mean; TRL grpo).

    1 / (sequences · tokens of the sequence) at each token. bool [B, T] -> [B, T].
    count_empty: does an empty completion count as a sequence? TRL counts it, verl and NeMo do not.
    """
    mask = completion_mask.to(torch.float64)
    return mask / mask.sum(dim=-1, keepdim=True).clamp(min=1) / _count(completion_mask, count_empty=count_empty)


@weighting
def sequence_sum(completion_mask: Tensor, *, count_empty: bool = False) -> Tensor:
    """Sum over the tokens of each sequence, mean over sequences (RLOO, LUSPO; verl seq-mean-token-sum).

    1 / sequences at each token. bool [B, T] -> [B, T].
    count_empty: does an empty completion count as a sequence? TRL counts it, verl and NeMo do not.
    """
    return completion_mask.to(torch.float64) / _count(completion_mask, count_empty=count_empty)


@weighting
def constant_length(
    completion_mask: Tensor,
    *,
    length: Annotated[int, within(at_least=1, whole=True, advice="take the longest completion that is sampled")] = 512,
) -> Tensor:
    """Sum over all tokens, divided by rows times a constant (Dr. GRPO; verl seq-mean-token-sum-norm): no length bias.

    1 / (rows · length) at each token (Liu et al. 2025, Dr. GRPO, arXiv:2503.20783). bool [B, T] -> [B, T].
    length: the constant, usually the longest completion allowed; it scales the loss and changes nothing else.
    """
    rows = completion_mask[..., 0].numel() if completion_mask.shape[-1] else 0
    return completion_mask.to(torch.float64) / max(rows * length, 1)


def _count(completion_mask: Tensor, *, count_empty: bool) -> Tensor:
    """[] the number of non-empty sequences, or of all rows; at least 1."""
    filled = completion_mask.any(dim=-1)
    return (torch.ones_like(filled) if count_empty else filled).sum().clamp(min=1)
