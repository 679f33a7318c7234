"""The base of every loss: values from a formula, and weights from masks and lengths.

Dimensions: B rows, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError, ShapeError
from rlx.fields import Ranged


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` set to 0 outside of the mask, even where they are not finite; the same shape."""
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def by_sequence(values: Tensor) -> Tensor:
    """[P, G, T] -> [P·G, T]: a formula sees sequences, however they are grouped. [B, T] stays as it is."""
    return values.flatten(0, -2) if values.ndim > 2 else values


def require_shape(found: Any, shape: torch.Size | tuple[int, ...], *, by: str, of: str) -> Tensor:
    """Return the output of a formula. Raises ShapeError unless it is a tensor of this shape.

    by: the name of the formula's owner. of: what the shape means. Both are for the message.
    """
    if not isinstance(found, Tensor) or found.shape != shape:
        given = tuple(found.shape) if isinstance(found, Tensor) else "None" if found is None else f"a {type(found).__name__}"
        raise ShapeError(f"{by} gives {given}, not {of}, a tensor of shape {tuple(shape)}")
    return found


@dataclass(frozen=True)
class RunningMean:
    """A running mean that a loss keeps over updates, see `rlx.loss.running_mean`. reads: the names of the averaged inputs."""

    of: str | Callable[..., Tensor]
    reads: tuple[str, ...]
    decay: float | str
    start: float

    def decay_of(self, loss: Any) -> float:
        """The decay: a hyperparameter of the loss, or a number."""
        found: float = getattr(loss, self.decay) if isinstance(self.decay, str) else self.decay
        return found

    def statistic(self, loss: Any, given: Callable[[str], Any]) -> Any:
        """The values to average, [B] or [B, T]. given: name -> an input or a state."""
        if isinstance(self.of, str):
            return given(self.of)
        return self.of(**{name: getattr(loss, name) if name in loss.takes else given(name) for name in self.reads})

    def __str__(self) -> str:
        of = self.of if isinstance(self.of, str) else f"a function of {', '.join(self.reads)}"
        return f"running mean of {of} over updates, decay={self.decay}, from {self.start:g}"


@dataclass(frozen=True, kw_only=True)
class Loss(Ranged, ABC):
    """A loss is `(weights * values).sum()`: values from the formula, weights from masks and lengths alone.

    formula: the function of tensors that gives the values. reads: the names of its inputs. takes: its hyperparameters.
    check: raises ConfigError if hyperparameters, given by keyword, do not fit together.
    state: name -> running mean that the formula reads; its value belongs to the run (see rlx.loss.state).
    requires: names of the optional inputs that it reads; they are computed only if named here.
    needs_reference: does it read the reference's log-probabilities?
    couples_rows: does the value of one row depend on other rows (sorting, a batch-wide baseline)? If so it must be
        called once on all rows of an update, whatever the micro-batch size.
    Class variables describe the formula alone; attributes of the same names on an instance include its modifiers.
    """

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    check: ClassVar[Callable[..., None] | None] = None
    state: ClassVar[Mapping[str, RunningMean]] = {}
    requires: ClassVar[frozenset[str]] = frozenset()
    needs_reference: ClassVar[bool] = True
    couples_rows: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.check is not None:
            self.check(**{name: getattr(self, name) for name in self.takes})
        for name, mean in self.state.items():
            decay = mean.decay_of(self)
            if isinstance(decay, bool) or not isinstance(decay, int | float) or not 0 <= decay < 1:
                said = f"{mean.decay} of {type(self).__name__} is {decay!r}, and it is the decay of its state {name}"
                raise ConfigError(f"{said}: it must be at least 0 and below 1")

    @abstractmethod
    def weights(self, completion_mask: Tensor) -> Tensor:
        """Weights of the values, computed once over all rows of one optimiser update."""


# Exponentials of log-ratios, clamped to stay finite.


LIMIT = 20.0  # e^20 is 5e8: far beyond any clip, and its square is finite in float32


def clamped_exp(exponent: Tensor) -> Tensor:
    """exp of `exponent` clamped to ±20, with zero gradient beyond. Any shape."""
    return torch.exp(exponent.clamp(-LIMIT, LIMIT))


def stop_gradient(values: Tensor) -> Tensor:
    """`values` as a constant: no gradient flows through it. Shape unchanged."""
    return values.detach()
