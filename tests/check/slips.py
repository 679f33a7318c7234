"""Slips of researchers who port a paper, each in an algorithm of its own; SLIPS says which laws may name it.

They were written without a look at the laws, and passed all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.check.faulty import Preferences

_MOMENTUM: dict[str, Any] = {}


class MomentumOfTheModule(Preferences):
    """A momentum in a variable of the module."""

    def update_policy(self, gradients, optimizer):
        found, before = gradients()["loss"], _MOMENTUM.get("before")
        if before is not None and [part.shape for part in before] == [part.shape for part in found]:
            found = [0.9 * old + part for old, part in zip(before, found, strict=True)]
        _MOMENTUM["before"] = found
        return optimizer.step(found, self.clipping)


@dataclass(frozen=True, kw_only=True)
class MomentumOfTheAlgorithm(Preferences):
    """A momentum in a field of the algorithm, which meets batches of other lengths."""

    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if "before" in self.kept:
            found = [0.9 * old + part for old, part in zip(self.kept["before"], found, strict=True)]
        self.kept["before"] = found
        return optimizer.step(found, self.clipping)


class MomentumOnTheOptimizer(Preferences):
    """A momentum in an attribute of the optimiser, which is not in its state."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if hasattr(optimizer, "before"):
            found = [0.9 * old + part for old, part in zip(optimizer.before, found, strict=True)]
        optimizer.before = found
        return optimizer.step(found, self.clipping)


SLIPS: dict[type, set[str]] = {
    MomentumOfTheModule: {"update"},
    MomentumOfTheAlgorithm: {"update"},
    MomentumOnTheOptimizer: {"update"},
}
