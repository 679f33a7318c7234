"""Where the time of a training step goes: stand-ins for an algorithm and an optimiser that time what passes through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rlx.optimizer.step import Gradients

PHASES = ("draw", "forward", "backward", "step")


class Clock:
    """Seconds by phase. A phase within another is taken out of it, so the phases add up to no more than the time that passed."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._now = now
        self._inner = [0.0]  # per open phase, what the phases within it took

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        start = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            passed = self._now() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + passed - self._inner.pop()
            self._inner[-1] += passed

    def take(self) -> dict[str, float]:
        """The seconds so far; the clock begins again."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class TimedAlgorithm:
    """An algorithm whose draw, forward, backward and step are timed; everything else is the algorithm's own.

    completions: how many completions its draws held so far.
    """

    def __init__(self, algorithm: Any, clock: Clock) -> None:
        self._own = algorithm
        self._clock = clock
        self.completions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def draw(self, lab: Any) -> Any:
        """As the algorithm's."""
        with self._clock("draw"):
            batch = self._own.draw(lab)
        self.completions += count_completions(batch)
        return batch

    def compute_loss(self, policy: Any, reference: Any, batch: Any) -> Any:
        """As the algorithm's."""
        with self._clock("forward"):
            return self._own.compute_loss(policy, reference, batch)

    def update_policy(self, gradients: Any, optimizer: Any) -> Mapping[str, float]:
        """As the algorithm's; its gradients are timed as the backward pass, less the forward within."""
        metrics: Mapping[str, float] = self._own.update_policy(_TimedGradients(gradients, self._clock), optimizer)
        return metrics


class TimedOptimizer:
    """An optimiser whose step is timed."""

    def __init__(self, optimizer: Any, clock: Clock) -> None:
        self._own = optimizer
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def step(self, gradients: Gradients, clipping: Any) -> dict[str, float]:
        """As the optimiser's."""
        with self._clock("step"):
            metrics: dict[str, float] = self._own.step(gradients, clipping)
            return metrics


class _TimedGradients:
    """A source of gradients, timed."""

    def __init__(self, gradients: Any, clock: Clock) -> None:
        self._own = gradients
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        with self._clock("backward"):
            found: Mapping[str, Gradients] = self._own(by)
            return found


def count_completions(batch: Any) -> int:
    """Completions of a batch, those of all its parts where it is a mixture's."""
    parts = getattr(batch, "parts", None)
    if parts is not None:
        return sum(count_completions(part) for part in parts.values())
    sequences = getattr(batch, "sequences", None)
    return len(batch) if sequences is None else len(sequences) * sequences.group_size
