"""Runs a few steps of an algorithm on synthetic numbers, and compares two such runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rlx.algorithm.base import Algorithm, Lab
from rlx.check.batch import draw_of
from rlx.check.reads import DRAW, OTHER, UPDATE, UPDATES, VALIDATE
from rlx.check.replay import Parts, Recording, Run
from rlx.check.source import ComputedOnce, LeavesGrewError
from rlx.check.subject import Laboratory, Subject, flat
from rlx.errors import RlxError
from rlx.rollout.buffer import ReplayBuffer
from rlx.seeding import Stream

STEPS = (0, 1, 500)
MOST_UPDATES = 3  # updates that are made of one draw
SAME = 1e-6  # nats; a smaller change of the policy counts as none
RATES = {2.0: 30.0}  # spread -> learning rate of gradient descent, else 3; at 30 an update moves tokens beyond usual clip ranges
NOTHING, FIGURES, MEASURED, LOSS, LEARNING = "", "figures", "measured", "loss", "learning"
RANK = {name: rank for rank, name in enumerate((NOTHING, FIGURES, MEASURED, LOSS, LEARNING))}


@dataclass(frozen=True)
class Journey:
    """The results of a few steps of an algorithm.

    policy: the parameters after each update; loss: before each update; figures: the metrics of the loss and of its updates, as
    text; names: of these metrics; measured: the metrics of batches and of validate, as text; at_first: how many entries of
    `policy` belong to the first step; unfilled: name and capacity of each replay buffer that was never full; refused: the error,
    if the values were refused; cut: the journey with which this one was compared, if this one ended at its first update that
    differs; recorded: the recorded phases, which other journeys may reuse.
    """

    policy: tuple[Tensor, ...]
    loss: tuple[float, ...]
    figures: str
    names: tuple[str, ...]
    measured: str
    unfilled: tuple[tuple[str, int], ...] = ()
    at_first: int = 0
    refused: str = ""
    cut: Journey | None = field(default=None, repr=False)
    recorded: Recording | None = field(default=None, repr=False)

    @staticmethod
    def refused_by(error: Exception) -> Journey:
        """Return the journey of an algorithm that raised this error."""
        return Journey((), (), "", (), "", refused=f"{type(error).__name__}: {error}")

    def departs_at_first(self, other: Journey) -> bool:
        """Whether a journey that was compared with this one already differs in what its first step learned."""
        if other.cut is not None:
            return len(other.policy) <= self.at_first
        return self.refused != other.refused or self.at_first != other.at_first

    def difference(self, other: Journey) -> str:
        """Return the most important difference of two journeys: LEARNING, LOSS, MEASURED, FIGURES or NOTHING, in this order."""
        if self.refused != other.refused or len(self.policy) != len(other.policy):
            return LEARNING
        if not all(same(mine, theirs) for mine, theirs in zip(self.policy, other.policy, strict=True)):
            return LEARNING
        if any(not abs(mine - theirs) <= SAME for mine, theirs in zip(self.loss, other.loss, strict=True)):
            return LOSS
        if self.names != other.names or self.measured != other.measured:  # an option of what is logged
            return MEASURED
        return FIGURES if self.figures != other.figures else NOTHING


def same(one: Tensor, other: Tensor) -> bool:
    """Whether two policies, or two gradients, agree within SAME."""
    return one.shape == other.shape and bool((one - other).abs().le(SAME).all())


def journey(
    subject: Subject,
    spread: float,
    steps: Sequence[int] = STEPS,
    *,
    against: Journey | None = None,
    run: Run | None = None,
    lower: float = 0.0,
) -> Journey:
    """Make a few steps of plain gradient descent in a stand-in laboratory, each with its draw, updates and validation.

    against: a complete journey; this one ends at the first update that learns something different. run: records the phases, or
    reuses those of a recorded run. lower: nats by which all log-probabilities fall after each update. An RlxError or ValueError
    that is raised becomes the journey's `refused`.
    """
    run = run or Run()
    try:
        return _Traveller(subject, spread, against, run, lower).journey(steps)
    except LeavesGrewError:
        again = replace(subject, asks_ahead=True)
        return journey(again, spread, steps, against=against, run=run.begun_again(), lower=lower)
    except (RlxError, ValueError) as error:  # refused values are a difference
        return Journey.refused_by(error)


class _Traveller:
    """Makes the steps of a journey and collects the fields of its `Journey`."""

    def __init__(self, subject: Subject, spread: float, against: Journey | None, run: Run, lower: float) -> None:
        self._subject, self._against, self._run, self._lower = subject, against, run, lower
        self._algorithm = subject.algorithm
        self._laboratory = subject.stand_in(spread=spread, agreeing=True)
        self._rate = 0.1 if subject.goes_past else RATES.get(spread, 3.0)
        self._policies: list[Tensor] = []
        self._losses: list[float] = []
        self._figures: list[tuple[str, float]] = []
        self._measured: list[Any] = []
        self._full: dict[tuple[str, int], bool] = {}  # (name, capacity) of a replay buffer -> whether it was full
        self._at_first = 0

    def journey(self, steps: Sequence[int]) -> Journey:
        with self._run.within(OTHER):
            self._measured.append(self._algorithm.moving_reference)  # the training loop reads it
        for step in steps:
            lab = _Watched(**vars(self._laboratory.lab(step=step, seed=self._subject.seed)), full=self._full)
            batch, noted = self._run.phase(DRAW, (step,), self._laboratory, partial(self._drawn, lab))
            self._full.update(noted)
            self._measured += sorted(getattr(batch, "metrics", {}).items())
            for number, part in _first_updates(self._subject, batch, step, self._laboratory, self._run):
                if self._departs_by((step, number), part):
                    return Journey(tuple(self._policies), (), "", (), "", cut=self._against)
            self._measured += self._run.phase(VALIDATE, (step,), self._laboratory, partial(self._validated, lab))
            self._at_first = self._at_first or len(self._policies)
        names, shown = tuple(name for name, _ in self._figures), repr([f"{value:.5g}" for _, value in self._figures])
        unfilled = tuple(sorted(buffer for buffer, is_full in self._full.items() if not is_full))
        made = Journey(tuple(self._policies), tuple(self._losses), shown, names, repr(self._measured), unfilled)
        return replace(made, at_first=self._at_first)

    def _drawn(self, lab: _Watched) -> tuple[Any, dict[tuple[str, int], bool]]:
        batch = draw_of(self._algorithm, lab)
        lab.note_full()
        return batch, dict(lab.full)

    def _validated(self, lab: _Watched) -> list[Any]:
        with torch.no_grad():
            return sorted(self._algorithm.validate(lab).items())

    def _departs_by(self, place: tuple[int, int], part: Any) -> bool:
        """Make an update; return whether its result differs from that of the compared journey."""
        subject, laboratory, run = self._subject, self._laboratory, self._run
        source = run.source(place, laboratory, partial(subject.source, laboratory, part, comes_again=True))
        said: dict[str, float] | None = None  # of before the update, which may compute gradients at other weights
        if type(self._algorithm).update_policy is not Algorithm.update_policy:
            source = ComputedOnce(source, laboratory.policy.parameters())
            if self._departs(flat(source, laboratory)):  # a user's update_policy may read only the gradient's sign
                return True
            said = dict(source.metrics)
        done = run.phase(UPDATE, place, laboratory, partial(updated, subject, laboratory, source, self._rate))
        subject.states(laboratory).learn(source.record or {})
        leaves = laboratory.policy.parameters()
        if self._departs(torch.cat([torch.zeros(0), *(leaf.detach().reshape(-1) for leaf in leaves)])):
            return True
        _below_one(laboratory.policy, by=self._lower)
        said = source.metrics if said is None else said
        self._losses.append(float(said.get("loss", 0.0)))
        own = {name: value for name, value in said.items() if name != "loss" and not name.endswith("_loss")}
        self._figures += [*sorted(own.items()), *sorted(done.items())]
        return False

    def _departs(self, policy: Tensor) -> bool:
        """Store a policy or a gradient; return whether it differs from the one at the same place of the compared journey."""
        self._policies.append(policy)
        if self._against is None or self._against.refused:
            return False
        place = len(self._policies) - 1
        if place >= len(self._against.policy) or not same(self._against.policy[place], policy):
            return True
        self._run.require(torch.equal(self._against.policy[place], policy))
        return False


@dataclass(frozen=True)
class _Watched(Lab):
    """A Lab that records which replay buffers were full. full: (name, capacity) of each requested buffer -> whether it was."""

    full: dict[tuple[str, int], bool]

    def buffer(self, capacity: int, *, name: str = "buffer") -> ReplayBuffer:
        """Return the replay buffer of this name, as Lab does."""
        self.full.setdefault((name, capacity), False)
        return super().buffer(capacity, name=name)

    def note_full(self) -> None:
        """Record which buffers hold as many groups as their capacity."""
        for name, capacity in self.full:
            self.full[name, capacity] |= len(super().buffer(capacity, name=name)) >= capacity


def _below_one(policy: Any, *, by: float) -> None:
    """Lower all log-probabilities by `by` nats and keep every probability below 1, as in a model."""
    leaf = getattr(policy, "leaves", {}).get("token_logprobs")
    if leaf is not None:
        with torch.no_grad():
            leaf.sub_(by).clamp_(max=-1e-3)


def updated(subject: Subject, laboratory: Laboratory, source: Any, rate: float) -> dict[str, float]:
    """Make an update of plain gradient descent and return its metrics."""
    return dict(subject.algorithm.update_policy(source, subject.optimizer(laboratory, rate=rate)))


def _first_updates(subject: Subject, batch: Any, step: int, laboratory: Laboratory, run: Run) -> Iterator[tuple[int, Any]]:
    parts = Parts(subject.algorithm, batch, Stream(subject.seed, ("updates", step)))
    for number in range(MOST_UPDATES):
        part = run.phase(UPDATES, (step, number), laboratory, partial(parts.at, number))
        if part is None:
            return
        yield number, part
