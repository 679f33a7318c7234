"""Losses of a value head: how far the predicted values are from the returns.

Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import within
from rlx.loss.preference.base import Loss, masked
from rlx.loss.weight import TokenMean, Weighting


def squared_error(values: Tensor, returns: Tensor) -> Tensor:
    """½ (V - R)².

    Paper: Sutton and Barto 2018, Reinforcement learning, section 9.2, http://incompleteideas.net/book/the-book.html.
    Shapes: values V [B, T], returns R [B, T] -> [B, T].
    """
    return (values - returns) ** 2 / 2


def clipped_squared_error(values: Tensor, sampling_values: Tensor, returns: Tensor, *, clip: float) -> Tensor:
    """½ max((V - R)², (clamp(V, V_s - ε, V_s + ε) - R)²), V_s the value when the batch was drawn.

    Paper: Schulman et al. 2015, arXiv:1506.02438, with the clip of the PPO authors' code; Engstrom et al. 2020, arXiv:2005.12729.
    Shapes: values V [B, T], sampling_values V_s [B, T], returns R [B, T] -> [B, T].
    """
    held = torch.maximum(torch.minimum(values, sampling_values + clip), sampling_values - clip)
    return torch.maximum(squared_error(values, returns), squared_error(held, returns))


@dataclass(frozen=True, kw_only=True)
class ValueLoss(Loss):
    """A loss of values: `loss(values, returns, completion_mask, sampling_values) -> [B, T]`; write `error` in a subclass.

    weighting: the weights of the tokens (see rlx.loss.weight).
    """

    needs_reference: ClassVar[bool] = False

    weighting: Weighting = field(default_factory=TokenMean)

    def __call__(self, values: Tensor, returns: Tensor, completion_mask: Tensor, sampling_values: Tensor | None = None) -> Tensor:
        """[B, T] one value a token, 0 outside of the mask; sampling_values are those when the batch was drawn. All [B, T]."""
        sampling_values = values if sampling_values is None else sampling_values
        for name, tensor in (("values", values), ("returns", returns), ("sampling_values", sampling_values)):
            if tensor.shape != completion_mask.shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(completion_mask.shape)}")
        given = (masked(tensor, completion_mask) for tensor in (values, returns.detach(), sampling_values.detach()))
        return masked(self.error(*given), completion_mask)

    @abstractmethod
    def error(self, values: Tensor, returns: Tensor, sampling_values: Tensor) -> Tensor:
        """[B, T] the formula."""

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B, T] by `weighting`, over all rows of an update."""
        return self.weighting(completion_mask)


@dataclass(frozen=True, kw_only=True)
class SquaredError(ValueLoss):
    """Half the squared error.

    Convention: with the half, as in verl and TRL; some codes leave it to the coefficient.
    """

    formula: ClassVar = squared_error

    def error(self, values: Tensor, returns: Tensor, sampling_values: Tensor) -> Tensor:
        """[B, T] squared_error."""
        del sampling_values
        return squared_error(values, returns)


@dataclass(frozen=True, kw_only=True)
class ClippedSquaredError(ValueLoss):
    """PPO's: a value that moved further than the clip gets no credit for it.

    clip: how far a value may move from the one when the batch was drawn.
    """

    formula: ClassVar = clipped_squared_error

    clip: float = within(above=0, advice="it is in units of the reward; 0.2 is usual")

    def error(self, values: Tensor, returns: Tensor, sampling_values: Tensor) -> Tensor:
        """[B, T] clipped_squared_error."""
        return clipped_squared_error(values, sampling_values, returns, clip=self.clip)
