"""Runs jobs in a pool until none is left: failures, retries, timeouts and being asked to stop are decided here."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlx.sweep.plan.settings import Settings
from rlx.sweep.pool.messages import Answer, Done, Evaluated, Order, Progress
from rlx.sweep.pool.pool import Event, Pool, Worker
from rlx.sweep.pool.worker import LOG, tail
from rlx.sweep.state import (
    COMPLETED,
    ENDED,
    FAILED,
    INTERRUPTED,
    RUNNING,
    WAITING,
    JobState,
    SweepState,
    completed_score,
    mark_failed,
    timeout_reason,
)

_TICK = 0.25
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR2: 75}


class View(Protocol):
    """What shows a sweep while it runs."""

    def refresh(self) -> None: ...
    def ended(self, job: JobState) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Work(Protocol):
    """Where jobs come from: a plan, or a search that makes them as it learns."""

    @property
    def wants_answers(self) -> bool:
        """Whether jobs wait at their evaluations to hear if they shall go on."""

    def next(self) -> JobState | None:
        """A job to run now; None if there is none at the moment."""

    def ended(self, job: JobState, figures: Mapping[str, float]) -> None:
        """A job has ended for good."""

    def shall_prune(self, job: JobState, step: int, figures: Mapping[str, float]) -> bool:
        """Whether a running job has no chance any more."""


@dataclass
class Queue:
    """The jobs of a plan in their order."""

    waiting: deque[JobState]
    wants_answers: bool = False

    def next(self) -> JobState | None:
        return self.waiting.popleft() if self.waiting else None

    def ended(self, job: JobState, figures: Mapping[str, float]) -> None:
        """Nothing to learn from it."""

    def shall_prune(self, job: JobState, step: int, figures: Mapping[str, float]) -> bool:
        return False


@dataclass
class Runner:
    """Runs what `work` gives. order_of: the content of a worker's order for a job. asked: the signal that came, if one did."""

    state: SweepState
    work: Work
    pool: Pool
    settings: Settings
    view: View
    order_of: Callable[[JobState], Any]
    asked: int | None = None
    halted: bool = False
    _begun: dict[str, float] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _coming: deque[JobState] = field(default_factory=deque)
    _kill: bool = False
    _said: bool = False

    def run(self) -> None:
        """Run to the end, or until a signal comes."""
        with self._listening():
            while True:
                self._feed()
                if not self.pool.busy and (self._is_closing() or not self._has_more()):
                    break
                for event in self.pool.events(_TICK):
                    self._take(event)
                self._watch()
                self.state.write()
                self.view.refresh()
        self.state.write(force=True)

    def _is_closing(self) -> bool:
        return self.halted or self.asked is not None

    def _has_more(self) -> bool:
        if not self._coming and (job := self.work.next()) is not None:
            self._coming.append(job)
        return bool(self._coming)

    def _feed(self) -> None:
        """Give every idle process a job."""
        for worker in self.pool.idle:
            if self._is_closing() or not self._has_more():
                return
            self._begin(worker, self._coming.popleft())

    def _begin(self, worker: Worker, job: JobState) -> None:
        job.state, job.reason, job.log_tail = RUNNING, None, None
        job.attempts += 1
        self._begun[job.name] = time.monotonic()
        directory = self.state.directory / job.name
        worker.give(Order(job.name, os.fspath(directory), self.order_of(job), self.work.wants_answers))

    def _take(self, event: Event) -> None:
        job = self.state.jobs[event.order.name] if event.order is not None else None
        message = event.message
        if job is None:
            return
        if isinstance(message, Progress):
            job.step = message.step
            job.score = message.figures.get("eval/score", job.score)
        elif isinstance(message, Evaluated):
            job.step = message.step
            job.score = message.figures.get("eval/score", job.score)
            self.pool.answer(event.slot, Answer(self.work.shall_prune(job, message.step, message.figures)))
        elif isinstance(message, Done):
            self._end(job, message.state, message.figures, event.reason or message.reason)
        elif message is None:
            figures = completed_score(self.state.directory / job.name)  # it may have died after its last word
            state = COMPLETED if figures is not None else INTERRUPTED if self.asked is not None else FAILED
            self._end(job, state, figures or {}, event.reason)

    def _end(self, job: JobState, state: str, figures: Mapping[str, float], reason: str) -> None:
        job.seconds = (job.seconds or 0.0) + time.monotonic() - self._begun[job.name]
        if state == INTERRUPTED and self.asked is None:  # nobody asked the sweep: it was the timeout, or somebody's kill
            state, reason = FAILED, reason or "stopped from outside"
        job.end(state, figures=figures, reason=None if state == COMPLETED else reason)
        if state == FAILED:
            job.log_tail = tail(self.state.directory / job.name / LOG)
            mark_failed(self.state.directory / job.name, reason)
            self._failures[job.name] = failures = self._failures.get(job.name, 0) + 1
            if failures <= self.settings.retries and self.asked is None:
                self.view.note(f"{job.name} failed ({reason}); it is tried again ({failures} of {self.settings.retries})")
                job.state = WAITING
                self._coming.append(job)
                return
        if state in ENDED:
            self.work.ended(job, figures)
        if state == FAILED and self.settings.on_failure == "stop" and not self.halted:
            self.halted = True
            self.view.note("sweep.on_failure=stop: no further job is begun; those that run go on to their end")
        self.state.write()
        self.view.ended(job)

    def _watch(self) -> None:
        """End what takes too long, and everything once a signal has come."""
        now = time.monotonic()
        if self.asked is not None and not self._said:
            self._said = True
            self.view.note("stopping: the jobs write their checkpoints; Ctrl-C once more ends them at once")
        for worker in self.pool.busy:
            limit = self.settings.timeout
            if self.asked is not None:
                worker.ask_to_stop("")
            elif limit is not None and now - worker.since > limit:
                worker.ask_to_stop(timeout_reason(limit))
            if worker.asked is not None and (self._kill or now - worker.asked > self.settings.grace):
                worker.kill()

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Being asked to stop: the first signal stops the jobs with a checkpoint, the second at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._caught) for number in EXIT_CODES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, number: int, frame: object) -> None:
        self._kill = self._kill or (number == signal.SIGINT and self.asked == signal.SIGINT)
        self.asked = self.asked or number
