"""Runs jobs in a pool until none is left, and handles failures, retries, timeouts and signals."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from rlx.interrupt import handled
from rlx.sweep.plan.settings import Settings
from rlx.sweep.pool.pool import Event, Pool, Worker
from rlx.sweep.pool.worker import LOG, Answer, Assignment, Done, Evaluated, JobProgress, tail
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


class SweepObserver(Protocol):
    """Receives the events of a sweep, to show them."""

    def refresh(self) -> None: ...
    def ended(self, job: JobState) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class JobSource(Protocol):
    """Supplies the jobs to run: a plan, or a search that chooses them by the scores so far."""

    @property
    def wants_answers(self) -> bool:
        """Whether jobs wait after each evaluation for an answer whether to continue."""

    def next(self) -> JobState | None:
        """A job to run now; None if there is none at the moment."""

    def ended(self, job: JobState, figures: Mapping[str, float]) -> None:
        """A job has ended for good."""

    def shall_prune(self, job: JobState, step: int, figures: Mapping[str, float]) -> bool:
        """Whether to end a running job early, because its figures are too low."""


@dataclass
class JobQueue:
    """The jobs of a plan in their order."""

    waiting: deque[JobState]
    wants_answers: bool = False

    def next(self) -> JobState | None:
        return self.waiting.popleft() if self.waiting else None

    def ended(self, job: JobState, figures: Mapping[str, float]) -> None:
        """Do nothing: a plan does not depend on results."""

    def shall_prune(self, job: JobState, step: int, figures: Mapping[str, float]) -> bool:
        return False


@dataclass
class Runner:
    """Runs the jobs of `work` in a pool.

    assignment_of: the content of a job's `Assignment`. stop_signal: the received signal, if any. halted: whether a failure keeps
    further jobs from starting.
    """

    state: SweepState
    work: JobSource
    pool: Pool
    settings: Settings
    view: SweepObserver
    assignment_of: Callable[[JobState], Any]
    stop_signal: int | None = None
    halted: bool = False
    _started: dict[str, float] = field(default_factory=dict)
    _failures: dict[str, int] = field(default_factory=dict)
    _next_jobs: deque[JobState] = field(default_factory=deque)
    _kill_at_once: bool = False
    _stop_announced: bool = False

    def run(self) -> None:
        """Run all jobs, or until a signal arrives."""
        with handled(self._on_signal):
            while True:
                self._feed()
                if not self.pool.busy and (self._is_stopping() or not self._has_more()):
                    break
                for event in self.pool.events(_TICK):
                    self._handle(event)
                self._watch()
                self.state.write()
                self.view.refresh()
        self.state.write(force=True)

    def _is_stopping(self) -> bool:
        return self.halted or self.stop_signal is not None

    def _has_more(self) -> bool:
        if not self._next_jobs and (job := self.work.next()) is not None:
            self._next_jobs.append(job)
        return bool(self._next_jobs)

    def _feed(self) -> None:
        """Give every idle process a job."""
        for worker in self.pool.idle:
            if self._is_stopping() or not self._has_more():
                return
            self._start(worker, self._next_jobs.popleft())

    def _start(self, worker: Worker, job: JobState) -> None:
        job.state, job.reason, job.log_tail = RUNNING, None, None
        job.attempts += 1
        self._started[job.name] = time.monotonic()
        directory = self.state.directory / job.name
        worker.assign(Assignment(job.name, os.fspath(directory), self.assignment_of(job), self.work.wants_answers))

    def _handle(self, event: Event) -> None:
        job = self.state.jobs[event.assignment.name] if event.assignment is not None else None
        message = event.message
        if job is None:
            return
        if isinstance(message, JobProgress | Evaluated):
            job.step = message.step
            job.score = message.figures.get("eval/score", job.score)
        if isinstance(message, Evaluated):
            self.pool.answer(event.slot, Answer(self.work.shall_prune(job, message.step, message.figures)))
        elif isinstance(message, Done):
            self._end(job, message.state, message.figures, event.reason or message.reason)
        elif message is None:
            figures = completed_score(self.state.directory, job)  # it may have died after its run had completed
            state = COMPLETED if figures is not None else INTERRUPTED if self.stop_signal is not None else FAILED
            self._end(job, state, figures or {}, event.reason)

    def _end(self, job: JobState, state: str, figures: Mapping[str, float], reason: str) -> None:
        job.seconds = (job.seconds or 0.0) + time.monotonic() - self._started[job.name]
        if state == INTERRUPTED and self.stop_signal is None:  # not by the sweep: a timeout or a kill
            state, reason = FAILED, reason or "stopped from outside"
        job.end(state, figures=figures, reason=None if state == COMPLETED else reason)
        if state == FAILED:
            job.log_tail = tail(self.state.directory / job.name / LOG)
            mark_failed(self.state.directory / job.name, reason)
            self._failures[job.name] = failures = self._failures.get(job.name, 0) + 1
            if failures <= self.settings.retries and self.stop_signal is None:
                self.view.note(f"{job.name} failed ({reason}); it is retried ({failures} of {self.settings.retries})")
                job.state = WAITING
                self._next_jobs.append(job)
                return
        if state in ENDED:
            self.work.ended(job, figures)
        if state == FAILED and self.settings.on_failure == "stop" and not self.halted:
            self.halted = True
            self.view.note("sweep.on_failure=stop: no more jobs are started; running jobs continue")
        self.state.write()
        self.view.ended(job)

    def _watch(self) -> None:
        """Stop jobs that take too long, and every job after a signal."""
        now = time.monotonic()
        if self.stop_signal is not None and not self._stop_announced:
            self._stop_announced = True
            self.view.note("stopping: the jobs write their checkpoints; press Ctrl-C again to end them at once")
        for worker in self.pool.busy:
            limit = self.settings.timeout
            if self.stop_signal is not None:
                worker.ask_to_stop("")
            elif limit is not None and now - worker.assigned_at > limit:
                worker.ask_to_stop(timeout_reason(limit))
            since = worker.stop_requested_at
            if since is not None and (self._kill_at_once or now - since > self.settings.grace):
                worker.kill()

    def _on_signal(self, number: int, frame: object) -> None:
        """The first signal stops the jobs with a checkpoint; a second Ctrl-C kills them."""
        self._kill_at_once = self._kill_at_once or (number == signal.SIGINT and self.stop_signal == signal.SIGINT)
        self.stop_signal = self.stop_signal or number
