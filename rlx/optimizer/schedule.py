"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rlx.fields import Ranged, count, within


@dataclass(frozen=True, kw_only=True)
class Schedule(Ranged, ABC):
    """A factor on the learning rate. `needs_horizon`: it depends on num_steps, so a finished run cannot be extended.

    warmup_steps: the factor rises linearly over these first steps; its first value is 1 / (warmup_steps + 1).
    """

    needs_horizon: ClassVar[bool]

    warmup_steps: int = count(at_least=0)

    def __call__(self, step: int, num_steps: int) -> float:
        """The factor at `step` of 0..num_steps - 1."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        progress = (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps)
        return self.after_warmup(min(1.0, progress))

    @abstractmethod
    def after_warmup(self, progress: float) -> float:
        """The factor at progress 0..1 of the steps after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """A constant learning rate after the warm-up."""

    needs_horizon: ClassVar[bool] = False

    def after_warmup(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class _Decay(Schedule):
    """final_factor: the factor at the end of the run."""

    needs_horizon: ClassVar[bool] = True

    final_factor: float = within(at_least=0, at_most=1)


@dataclass(frozen=True, kw_only=True)
class Linear(_Decay):
    """Falls linearly from 1 to final_factor after the warm-up."""

    def after_warmup(self, progress: float) -> float:
        return 1 + (self.final_factor - 1) * progress


@dataclass(frozen=True, kw_only=True)
class Cosine(_Decay):
    """Falls along half a cosine from 1 to final_factor (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5 without restarts)."""

    def after_warmup(self, progress: float) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_Decay):
    """1 after the warm-up, then a linear decay to final_factor over the last steps (Hu et al. 2024, MiniCPM, arXiv:2404.06395).

    decay_share: the share of the steps after the warm-up during which it decays.
    """

    decay_share: float = within(above=0, at_most=1)

    def after_warmup(self, progress: float) -> float:
        fallen = max(0.0, 1 - (1 - progress) / self.decay_share)
        return 1 + (self.final_factor - 1) * fallen
