"""Sources of an update's gradients for the laws: wrappers that reuse gradients or detect new parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from rlx.check.stand_in import StandInPolicy
from rlx.loss.state import Record
from rlx.optimizer.step import Gradients, GradientSource


class Accumulated(GradientSource, Protocol):
    """A source that computes an update's gradients as a training run does, and stores loss and metrics in `metrics`."""

    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def record(self) -> Record | None: ...  # the values that update the running means of its losses


class LeavesGrewError(Exception):
    """A loss asked a stand-in policy for a new statistic after the policy's parameters had been listed."""


class Around:
    """Wraps a source of gradients and has its batch, metrics and record."""

    def __init__(self, source: Accumulated) -> None:
        self._source = source
        self.batch = source.batch

    @property
    def metrics(self) -> dict[str, float]:
        """The loss and the other metrics."""
        return self._source.metrics

    @property
    def record(self) -> Record | None:
        """The values that update the running means of the losses."""
        return self._source.record


class OfKnownLeaves(Around):
    """Wraps a source of gradients; raises LeavesGrewError if computing the gradients gives the policy other parameters."""

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
    """Wraps a source of gradients; computes those of each term once, and again only after the parameters have changed.

    parameters: of the policy. An update may change them before its step, as sharpness-aware minimisation does.
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
        return grouped(self._found, by) if self._found else self._source(by=by)


def grouped(terms: Mapping[str, Gradients], by: Callable[[str], str] | None) -> dict[str, Gradients]:
    """Return group -> the sum of its terms' gradients, in new tensors. by: term -> its group; None: all are in "loss"."""
    groups: dict[str, Gradients] = {}
    for name, gradients in terms.items():
        group = "loss" if by is None else by(name)
        before = groups.get(group, [None] * len(gradients))
        groups[group] = [
            one if other is None else other.clone() if one is None else one + other
            for one, other in zip(before, gradients, strict=True)
        ]
    return groups
