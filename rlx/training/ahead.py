"""Sampling one step ahead (rollout.ahead=1): the next batch is sampled while the policy trains on the current one.

The draw of a step uses the policy as it was before the previous step: it is off-policy by one step, which importance ratios
correct. It uses a copy of those weights, so it does not depend on how far the concurrent updates have progressed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm, Need
from rlx.errors import ConfigError
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.rollout.sampler import Sampler


@dataclass(frozen=True)
class Drawn:
    """The batch of a step, and the sampler's metrics for it."""

    batch: Any
    figures: Mapping[str, float]


@dataclass
class DrawAhead:
    """The draw for the next step, and the policy that samples it.

    policy: a policy with the weights before this step's updates. weights: its trained weights. reference: the run's reference,
    safe to use while the policy trains. overlaps: whether the draw is made in a thread. version: the number of updates that
    `policy` has had. state: the algorithm's state before the draw of the next step.
    """

    policy: Policy
    weights: Sequence[Tensor]
    reference: Reference
    overlaps: bool
    version: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    _next: Drawn | None = None
    _thread: Thread | None = None
    _error: BaseException | None = None

    @staticmethod
    def of(algorithm: Algorithm[Any], policy: Policy, reference: Reference, sampler: Sampler) -> DrawAhead | None:
        """The DrawAhead of a run with these settings; None if it does not sample ahead.

        Raises ConfigError for an algorithm that does not sample, or a reference that moves between a draw and its updates.
        """
        if not sampler.ahead:
            return None
        if Need.REWARDS not in algorithm.active_needs:
            raise ConfigError(
                f"rollout.ahead={sampler.ahead}: {type(algorithm).__name__} does not learn from rollouts, so there is nothing to "
                "sample ahead; leave it out"
            )
        if algorithm.moving_reference is not None:
            raise ConfigError(
                f"rollout.ahead={sampler.ahead} with a reference that moves (loss=tr_dpo) is refused: the reference of a draw "
                "would depend on when it was made; set rollout.ahead=0, or take another loss"
            )
        twin, weights = trained_copy(policy)
        return DrawAhead(twin, weights, reference.beside(twin), sampler.overlaps)

    def follow(self, policy: Policy, *, version: int, state: Mapping[str, Tensor]) -> None:
        """Copy the current weights of the policy and the algorithm's current state."""
        with torch.no_grad():
            for mine, theirs in zip(self.weights, policy.parameters(), strict=True):
                mine.copy_(theirs)
        self.version = version
        self.state = {name: tensor.clone() for name, tensor in state.items()}

    def begin(self, make: Callable[[], Drawn]) -> None:
        """Start the next draw: make it now, or in a thread that `wait` joins."""
        if not self.overlaps:
            self._next = make()
            return

        def work() -> None:
            try:
                self._next = make()
            except BaseException as error:  # re-raised in the thread that waits
                self._error = error

        self._thread = Thread(target=work, daemon=True)  # so that an interrupt does not wait for a slow server
        self._thread.start()

    def wait(self) -> None:
        """Wait until the next draw is made. Re-raises its exception."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def take(self) -> Drawn | None:
        """Return and clear the draw that `begin` made; None if it must still be made, as after a resume."""
        drawn, self._next = self._next, None
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint, from which the draw of the next step can be made again."""
        return {"weights": [weight.detach() for weight in self.weights], "version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state from `state_dict`."""
        with torch.no_grad():
            for mine, theirs in zip(self.weights, state["weights"], strict=True):
                mine.copy_(theirs)
        self.version = state["version"]


def trained_copy(policy: Policy) -> tuple[Policy, list[Tensor]]:
    """(a frozen policy that shares all untrained weights, its copies of the trained ones in `policy.parameters()` order)."""
    shared = {id(tensor): tensor for tensor in policy.tensors() if not tensor.requires_grad}
    twin = copy.copy(policy)
    twin.model = copy.deepcopy(policy.model, shared)
    twin.adapter = None if policy.adapter is None else policy.adapter.of(twin.model)
    twin.value_head = copy.deepcopy(policy.value_head)
    twin.notes = []
    return twin, [parameter.requires_grad_(False) for parameter in twin.parameters()]
