"""Losses of a value head: the error of the predicted values against the returns.

Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import class_of, evaluated, with_options, within
from rlx.loss.base import Loss, by_sequence, masked, require_shape
from rlx.loss.weight import Weighting, token_mean

VALUE_INPUTS = ("values", "returns", "sampling_values", "completion_mask")


@dataclass(frozen=True, kw_only=True)
class ValueLoss(Loss):
    """A loss of values: `loss(values, returns, completion_mask, sampling_values) -> [B, T]`; `value_loss` creates subclasses.

    weighting: the weights of the tokens (see rlx.loss.weight).
    """

    needs_reference: ClassVar[bool] = False

    weighting: Weighting = field(default_factory=token_mean)

    def __call__(self, values: Tensor, returns: Tensor, completion_mask: Tensor, sampling_values: Tensor | None = None) -> Tensor:
        """One loss per token [B, T], 0 outside of the mask; sampling_values: predicted when the batch was drawn. All [B, T].

        The formula gets all three in the dtype of `values`, as losses of torch refuse mixed dtypes.
        """
        drawn = {"returns": returns, "sampling_values": values if sampling_values is None else sampling_values}
        given = {"values": values} | {name: tensor.detach().to(values.dtype) for name, tensor in drawn.items()}
        for name, tensor in given.items():
            if tensor.shape != completion_mask.shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(completion_mask.shape)}")
        clean = {name: by_sequence(masked(tensor, completion_mask)) for name, tensor in given.items()}
        mask = by_sequence(completion_mask)
        found = evaluated(self, (clean | {"completion_mask": mask}).__getitem__)
        found = require_shape(found, mask.shape, by=type(self).__name__, of="a value for each token")
        return masked(found.reshape(completion_mask.shape), completion_mask)

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B, T] weights from `weighting`, over all rows of an update."""
        return self.weighting(completion_mask)


@with_options
def value_loss(function: Callable[..., Tensor]) -> type[ValueLoss]:
    """Make a class of value losses from its formula, a function of the inputs in `VALUE_INPUTS`, all [B, T] -> [B, T]."""
    return class_of(function, ValueLoss, VALUE_INPUTS)


@value_loss
def squared_error(values: Tensor, returns: Tensor) -> Tensor:
    """½ (V - R)².

    Half the squared error.
    Paper: Sutton and Barto 2018, Reinforcement learning, section 9.2, http://incompleteideas.net/book/the-book.html.
    Shapes: values V [B, T], returns R [B, T] -> [B, T].
    Convention: includes the factor ½, as in verl and TRL; some implementations leave it to the coefficient.
    """
    return (values - returns) ** 2 / 2


@value_loss
def clipped_squared_error(
    values: Tensor,
    returns: Tensor,
    sampling_values: Tensor,
    *,
    clip: Annotated[float, within(above=0, advice="it is in units of the reward; 0.2 is usual")] = 0.2,
) -> Tensor:
    """½ max((V - R)², (clamp(V, V_s - ε, V_s + ε) - R)²), V_s the value when the batch was drawn.

    PPO's value loss: a value that moves further than the clip is not rewarded for it.
    Paper: Schulman et al. 2015, arXiv:1506.02438, with the clip of the PPO authors' code; Engstrom et al. 2020, arXiv:2005.12729.
    Shapes: values V [B, T], returns R [B, T], sampling_values V_s [B, T] -> [B, T].
    clip: how far a value may move from its prediction when the batch was drawn.
    """
    held = torch.maximum(torch.minimum(values, sampling_values + clip), sampling_values - clip)
    return torch.maximum((values - returns) ** 2 / 2, (held - returns) ** 2 / 2)
