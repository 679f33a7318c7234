"""Gradient sources of an update, for laws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from rlx.check.stand_in import StandInPolicy
from rlx.loss.state import Record
from rlx.optimizer.step import Gradients, GradientSource


class Accumulated(GradientSource, Protocol):
    """A source that computes the gradients of one update as a training run does, and writes loss and figures to `metrics`."""

    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def record(self) -> Record | None: ...  # what the running means of its losses are made of


class LeavesGrewError(Exception):
    """A loss asked a stand-in policy for more than it had been asked for, after its parameters had been listed."""


class Around:
    """A source of gradients around another one, with the figures and the record of that one."""

    def __init__(self, source: Accumulated) -> None:
        self._source = source
        self.batch = source.batch

    @property
    def metrics(self) -> dict[str, float]:
        """The loss and the figures."""
        return self._source.metrics

    @property
    def record(self) -> Record | None:
        """What the running means of losses are made of."""
        return self._source.record


class OfKnownLeaves(Around):
    """A source of gradients that raises LeavesGrewError where the policy's parameters are others than before."""

    def __init__(self, source: Accumulated, policy: StandInPolicy) -> None:
        super().__init__(source)
        self._policy = policy
        self._before = policy.parameters()

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        found = self._source(by=by)
        now = self._policy.parameters()
        if len(now) != len(self._before) or any(one is not other for one, other in zip(now, self._before, strict=True)):
            raise LeavesGrewError
        return found


class ComputedOnce(Around):
    """A source of gradients that computes those of each term once, and anew where the policy has moved.

    parameters: of the policy; an update may look elsewhere before it steps, as a sharpness-aware one does.
    """

    def __init__(self, source: Accumulated, parameters: Sequence[Tensor]) -> None:
        super().__init__(source)
        self._parameters = parameters
        self._found: Mapping[str, Gradients] | None = None
        self._at: list[int] = []

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        at = [parameter._version for parameter in self._parameters]
        if self._found is None or at != self._at:
            self._found, self._at = self._source(by=str), at
        if not self._found:
            return self._source(by=by)
        groups: dict[str, Gradients] = {}
        for name, gradients in self._found.items():
            group = "loss" if by is None else by(name)
            before = groups.get(group, [None] * len(gradients))
            groups[group] = [
                one if other is None else other.clone() if one is None else one + other
                for one, other in zip(before, gradients, strict=True)
            ]
        return groups
