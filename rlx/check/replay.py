"""Reuses results that another value of a hyperparameter cannot change.

A recorded run of an algorithm stores what each phase returned, and which attributes of the algorithm each phase read. A run of
the same algorithm with other values reuses the phases that read none of the differing attributes, up to the first difference.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import CodeType
from typing import Any

from torch import Tensor, nn

from rlx.check.batch import signature
from rlx.check.reads import (
    DRAW,
    GRADIENT,
    START,
    UPDATE,
    UPDATES,
    VALIDATE,
    Reads,
    UnwatchableError,
    attributes_of,
    changed,
    watched_tree,
)
from rlx.check.source import Accumulated, Around
from rlx.check.stand_in import StandInPolicy
from rlx.optimizer.step import Gradients
from rlx.seeding import Stream


@dataclass(frozen=True)
class PhaseResult:
    """The result of a phase and the laboratory's state after it. mark, state: texts that are equal if those are equal."""

    result: Any
    after: Kept
    mark: str
    state: str

    @staticmethod
    def of(result: Any, laboratory: Any) -> PhaseResult:
        """Return the record of a phase that has just returned `result`."""
        after = Kept.of(laboratory)
        return PhaseResult(result, after, signature(result), after.mark())


@dataclass(frozen=True)
class Kept:
    """The state of a laboratory: that of the algorithm, and a stand-in policy's parameters and their places."""

    state: Mapping[str, Any]
    leaves: Mapping[str, Tensor] | None
    places: Mapping[str, Mapping[Any, slice]]

    @staticmethod
    def of(laboratory: Any) -> Kept:
        """Return a copy of a laboratory's current state."""
        policy = laboratory.policy
        if not isinstance(policy, StandInPolicy):
            return Kept(copy.deepcopy(laboratory.state), None, {})
        leaves = {name: leaf.detach().clone() for name, leaf in policy.leaves.items()}
        return Kept(copy.deepcopy(laboratory.state), leaves, {name: dict(known) for name, known in policy.places.items()})

    def restore(self, laboratory: Any) -> None:
        """Set a laboratory to this state."""
        laboratory.state.clear()
        laboratory.state.update(copy.deepcopy(dict(self.state)))
        if self.leaves is not None:
            policy = laboratory.policy
            policy.leaves = {name: nn.Parameter(leaf.clone()) for name, leaf in self.leaves.items()}
            policy.places = {name: dict(known) for name, known in self.places.items()}
            policy.indices = {}

    def mark(self) -> str:
        """Return text that is equal for equal states."""
        return signature([self.state, self.leaves, {name: list(known) for name, known in self.places.items()}])


class Recording:
    """A recorded run.

    tree: of the algorithm, see `attributes_of`; reads: of its phases, None if they are unknown.
    """

    def __init__(self, algorithm: Any) -> None:
        self.tree = attributes_of(algorithm)
        self.events: dict[tuple[Any, ...], PhaseResult] = {}
        self.calls: dict[tuple[Any, ...], list[SourceCall]] = {}
        self.reads: Reads | None = None

    def watch(self, algorithm: Any, again: Callable[[Any, Run], bool]) -> None:
        """Determine what each phase reads. again: repeats the run with a watched algorithm; returns whether it has equal results.

        The reads stay unknown if the algorithm cannot be watched, its results differ, or it changes its own attributes.
        """
        reads = Reads()
        if changed(self.tree, attributes_of(algorithm)):
            return
        try:
            twin = watched_tree(algorithm, reads)
        except UnwatchableError:
            return
        before = attributes_of(twin)
        if again(twin, Run.watched(reads, self)) and not changed(before, attributes_of(twin)):
            self.reads = reads

    def reading(self, algorithm: Any) -> set[str] | None:
        """Return the phases that read an attribute in which another algorithm differs; None if the reads are unknown."""
        if self.reads is None:
            return None
        differs = changed(self.tree, attributes_of(algorithm))
        return {phase for phase, paths in self.reads.of.items() if paths & differs}

    def is_untouched_by(self, algorithm: Any) -> bool:
        """Whether no phase reads an attribute in which another algorithm differs, so that its run would be the same."""
        return self.reading(algorithm) == set()


@dataclass
class SourceCall:
    """One call of a source of gradients. at: text that is equal for equal weights; empty for the first call of an update."""

    by: Any
    at: str
    totals: Mapping[str, Gradients]
    metrics: dict[str, float]
    record: Any


class Run:
    """A run, phase by phase, that is recorded (`into`), or reuses phases of a recorded run (`like`), or neither."""

    def __init__(self, *, into: Recording | None = None, like: Recording | None = None, algorithm: Any = None) -> None:
        self._into, self._like = into, like
        self._reads: Reads | None = None
        reading = None if like is None else like.reading(algorithm)
        self._free = set() if reading is None or START in reading else {DRAW, UPDATES, GRADIENT, UPDATE, VALIDATE} - reading
        self.is_alike = bool(self._free)  # whether everything so far equals the recorded run
        self._part_alike = self.is_alike

    @staticmethod
    def watched(reads: Reads, like: Recording) -> Run:
        """Return a run that computes all phases of the recorded run `like` again; the reads of its algorithm go to `reads`."""
        run = Run()
        run._reads, run._like = reads, like
        return run

    @property
    def is_known(self) -> bool:
        """Whether the weights are those of a recorded run, or this run is recorded or watched."""
        return self.is_alike or self._into is not None or self._reads is not None

    def begun_again(self) -> Run:
        """Return a run from the start that reuses nothing; clear what was recorded."""
        if self._into is not None:
            self._into.events.clear()
            self._into.calls.clear()
        run = Run(into=self._into)
        run._reads = self._reads
        return run

    @contextmanager
    def within(self, phase: str) -> Iterator[None]:
        """Attribute the algorithm's reads inside the context to this phase."""
        if self._reads is None:
            yield
        else:
            with self._reads.within(phase):
                yield

    def phase(self, name: str, place: tuple[Any, ...], laboratory: Any, compute: Callable[[], Any]) -> Any:
        """Return the result of a phase, computed or taken from the recorded run."""
        key = (name, *place)
        known = None if self._like is None or not self.is_alike else self._like.events.get(key)
        if known is not None and self._takes(name, known):
            known.after.restore(laboratory)
            if name == UPDATES:
                self._part_alike = True
            return known.result
        with self.within(name):
            result = compute()
        if self._into is not None:
            self._into.events[key] = PhaseResult.of(result, laboratory)
        elif known is None:
            self.is_alike = False
        elif name != UPDATE:  # after an update, the caller compares the policies, see `require`
            event = PhaseResult.of(result, laboratory)
            alike = event.mark == known.mark
            if name == UPDATES:
                self._part_alike = alike
                alike |= result is not None and known.result is not None
            self.is_alike &= event.state == known.state and (alike or name == VALIDATE)
        return result

    def _takes(self, name: str, known: PhaseResult) -> bool:
        """Whether the recorded result of a phase is valid for this run."""
        if name == UPDATE and (known.after.leaves is None or GRADIENT not in self._free):
            return False
        if name not in self._free or (name in (GRADIENT, UPDATE) and not self._part_alike):
            return False
        return name not in (DRAW, UPDATES) or signature(known.result) == known.mark  # it has not been modified

    def require(self, equal: bool) -> None:
        """Reuse nothing of the recorded run from here on unless `equal` is true."""
        self.is_alike &= equal

    def source(
        self, place: tuple[Any, ...], laboratory: Any, make: Callable[[], Accumulated], look: Callable[[], Any] | None = None
    ) -> Any:
        """Return the source of an update's gradients, or one that repeats those of the recorded run.

        look: reads the attributes that the source reads, at a lower cost; a watched run then repeats the recorded gradients.
        """
        key = (GRADIENT, *place)
        if look is not None and self._reads is not None and self._like is not None and self._like.calls.get(key):
            with self.within(GRADIENT):
                look()
            return _Repeated(self._like.calls[key], self._like.events[key].result, laboratory.policy, make)
        if self._like is not None and self.is_alike and self._part_alike and GRADIENT in self._free and self._like.calls.get(key):
            self._like.events[key].after.restore(laboratory)
            return _Repeated(self._like.calls[key], self._like.events[key].result, laboratory.policy, make)
        with self.within(GRADIENT):
            source = make()
        if self._into is not None:
            self._into.events[key] = PhaseResult(source.batch, Kept.of(laboratory), "", "")
            return _Recorded(source, laboratory.policy, self._into.calls.setdefault(key, []))
        return source if self._reads is None else _Within(source, self)


class Parts:
    """The batches of one draw's updates, made one after the other on request."""

    def __init__(self, algorithm: Any, batch: Any, rng: Stream) -> None:
        self._make = partial(algorithm.updates, batch, rng)
        self._made: Iterator[Any] | None = None
        self._next = 0

    def at(self, number: int) -> Any:
        """Return the batch with this number, counted from 0; None if there are fewer. Earlier batches are skipped."""
        part = None
        if self._made is None:
            self._made = iter(self._make())
        while self._next <= number:
            part = next(self._made, None)
            self._next += 1
        return part


class _Recorded(Around):
    """Wraps a source of gradients and records its calls."""

    def __init__(self, source: Accumulated, policy: Any, calls: list[SourceCall]) -> None:
        super().__init__(source)
        self._policy, self._calls = policy, calls

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        at = _where(self._policy) if self._calls else ""
        totals = self._source(by=by)
        self._calls.append(SourceCall(by, at, _cloned(totals), dict(self._source.metrics), self._source.record))
        return totals


class _Within(Around):
    """Wraps a source of gradients in a watched run and attributes its reads to the phase GRADIENT."""

    def __init__(self, source: Accumulated, run: Run) -> None:
        super().__init__(source)
        self._run = run

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        with self._run.within(GRADIENT):
            return self._source(by=by)


class _Repeated:
    """Repeats recorded gradients call by call, and computes them once a call has other groups of terms or other weights.

    An update may compute gradients at other weights than the policy's.
    """

    def __init__(self, calls: list[SourceCall], batch: Any, policy: Any, make: Callable[[], Accumulated]) -> None:
        self._calls, self._policy, self._make = calls, policy, make
        self._source: Accumulated | None = None
        self._number = 0
        self.batch = batch
        self.metrics: dict[str, float] = dict(calls[-1].metrics)
        self.record: Any = calls[-1].record

    def __call__(self, by: Callable[[str], str] | None = None) -> Mapping[str, Gradients]:
        call = self._calls[self._number] if self._number < len(self._calls) else None
        if self._source is None and call and _groups_alike(by, call.by) and call.at in ("", _where(self._policy)):
            self._number += 1
            self.metrics, self.record = dict(call.metrics), call.record
            return _cloned(call.totals)
        self._source = self._source or self._make()
        totals = self._source(by=by)
        self.metrics, self.record = self._source.metrics, self.record or self._source.record
        return totals


def _where(policy: Any) -> str:
    """Return text that is equal for equal weights of a policy."""
    return signature([parameter.detach() for parameter in policy.parameters()])


def _groups_alike(one: Any, other: Any) -> bool:
    """Whether two functions group terms alike: they are the same, or have the same code without free variables."""
    if one is other:
        return True
    codes = [getattr(each, "__code__", None) for each in (one, other)]
    return codes[0] is codes[1] and isinstance(codes[0], CodeType) and not codes[0].co_freevars


def _cloned(totals: Mapping[str, Gradients]) -> dict[str, Gradients]:
    return {name: [None if part is None else part.clone() for part in parts] for name, parts in totals.items()}
