"""Draws that are made one step ahead (rollout.ahead=1): the next one is sampled while this one is learned from.

The draw of a step is made by the policy as it was before the step before: off-policy by one step, which importance ratios
correct. It is made of a copy of these weights, so it does not depend on how far the updates have come meanwhile.
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
    """The batch of a step, and the sampler's figures of it."""

    batch: Any
    figures: Mapping[str, float]


@dataclass
class DrawAhead:
    """The draw of the next step, and the policy that makes it.

    policy: with the weights before the updates of this step. weights: those that are trained. reference: as the run's, safe to
    use while the policy trains. overlaps: whether the draw is made in a thread. version: the updates that `policy` has seen.
    state: of the algorithm, before the draw of the next step.
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
        """For a run with these settings; None where its draws are not made ahead.

        Raises ConfigError for an algorithm that does not sample, and for a reference that moves between a draw and its updates.
        """
        if not sampler.ahead:
            return None
        if Need.REWARDS not in algorithm.active_needs:
            raise ConfigError(
                f"rollout.ahead={sampler.ahead}: {type(algorithm).__name__} learns from no rollouts, so there is nothing to "
                "sample ahead; leave it out"
            )
        if algorithm.moving_reference is not None:
            raise ConfigError(
                f"rollout.ahead={sampler.ahead} with a reference that moves (loss=tr_dpo) is not built: the reference of a draw "
                "would depend on when it was made; set rollout.ahead=0, or take another loss"
            )
        twin, weights = trained_copy(policy)
        return DrawAhead(twin, weights, reference.beside(twin), sampler.overlaps)

    def follow(self, policy: Policy, *, version: int, state: Mapping[str, Tensor]) -> None:
        """Take the policy's weights, and the algorithm's state, as they are now."""
        with torch.no_grad():
            for mine, theirs in zip(self.weights, policy.parameters(), strict=True):
                mine.copy_(theirs)
        self.version = version
        self.state = {name: tensor.clone() for name, tensor in state.items()}

    def begin(self, make: Callable[[], Drawn]) -> None:
        """Make the next draw: at once, or from now on in a thread until `wait`."""
        if not self.overlaps:
            self._next = make()
            return

        def work() -> None:
            try:
                self._next = make()
            except BaseException as error:  # raised in the thread that waits
                self._error = error

        self._thread = Thread(target=work, daemon=True)  # an interrupt does not wait for a slow server
        self._thread.start()

    def wait(self) -> None:
        """Wait until the next draw is made. Raises what it raised."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def take(self) -> Drawn | None:
        """The draw that `begin` made, once; None where it has to be made, as after a resume."""
        drawn, self._next = self._next, None
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds; with it the draw of the next step is made again."""
        return {"weights": [weight.detach() for weight in self.weights], "version": self.version}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        with torch.no_grad():
            for mine, theirs in zip(self.weights, state["weights"], strict=True):
                mine.copy_(theirs)
        self.version = state["version"]


def trained_copy(policy: Policy) -> tuple[Policy, list[Tensor]]:
    """(a frozen policy that shares all but the trained weights, its copies of those in the order of `policy.parameters()`)."""
    shared = {id(tensor): tensor for tensor in policy.tensors() if not tensor.requires_grad}
    twin = copy.copy(policy)
    twin.model = copy.deepcopy(policy.model, shared)
    twin.adapter = None if policy.adapter is None else policy.adapter.of(twin.model)
    twin.value_head = copy.deepcopy(policy.value_head)
    twin.notes = []
    return twin, [parameter.requires_grad_(False) for parameter in twin.parameters()]
