"""Exponentials of log-ratios that stay finite.

Dimensions: any shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

LIMIT = 20.0  # e^20 is 5e8: far beyond what any clip lets through, and its square is finite in float32


def clamped_exp(exponent: Tensor) -> Tensor:
    """exp of `exponent` clamped to ±20; no gradient beyond. Any shape."""
    return torch.exp(exponent.clamp(-LIMIT, LIMIT))


# Stop-gradients that can be frozen, so that finite differences can test the gradient a loss declares.


@dataclass
class _Tape:
    values: list[Tensor] = field(default_factory=list)
    position: int = 0
    replaying: bool = False


_tape: ContextVar[_Tape | None] = ContextVar("stop_gradient_tape", default=None)


def stop_gradient(values: Tensor) -> Tensor:
    """`values` as a constant: no gradient flows through it. Shape unchanged.

    A loss writes this rather than `.detach()`: finite differences then hold it at its value (see `FrozenStopGradients`).
    """
    tape = _tape.get()
    if tape is None:
        return values.detach()
    if not tape.replaying:
        tape.values.append(values.detach().clone())
        return tape.values[-1]
    tape.position += 1
    return tape.values[tape.position - 1]


class FrozenStopGradients:
    """Records what `stop_gradient` returns in one call of a function, then gives it back in later calls.

    Example: frozen = FrozenStopGradients(); with frozen.record(): f(x); with frozen.replay(): f(x + step)
    """

    def __init__(self) -> None:
        self._tape = _Tape()

    @contextmanager
    def record(self) -> Iterator[None]:
        """Within this block the constants are kept."""
        self._tape = _Tape()
        token = _tape.set(self._tape)
        try:
            yield
        finally:
            _tape.reset(token)

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Within this block the kept constants are returned in their order, whatever they would be now."""
        token = _tape.set(_Tape(self._tape.values, 0, replaying=True))
        try:
            yield
        finally:
            _tape.reset(token)
