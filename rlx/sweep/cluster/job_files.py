"""The jobs of a launcher: the files by which a sweep and its jobs communicate, and the state of each job."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.record.directory import is_alive, this_process
from rlx.record.files import write_atomic
from rlx.record.listing import listed
from rlx.sweep.cluster import slurm
from rlx.sweep.pool.runner import SweepObserver
from rlx.sweep.pool.worker import LOG, Assignment, Done, tail
from rlx.sweep.state import COMPLETED, FAILED, INTERRUPTED, RUNNING, WAITING, JobState, SweepState, completed_score, mark_failed

_FOLDER = ".orders"
STOP = "stop"  # the flag of a sweep that was asked to stop: signalled jobs then do not ask to be requeued
HALT = "halt"  # the flag of a sweep with sweep.on_failure=stop in which a job failed: no more jobs begin


@dataclass(frozen=True)
class JobFiles:
    """The files of the jobs of the sweep in `directory`."""

    directory: Path

    def _file(self, name: str, ending: str) -> Path:
        return self.directory / _FOLDER / f"{name}.{ending}"

    def assign(self, assignment: Assignment) -> None:
        """Write what a job is to run, and remove the files of earlier attempts."""
        (self.directory / _FOLDER).mkdir(exist_ok=True)
        for ending in ("json", "slurm", "process"):
            self._file(assignment.name, ending).unlink(missing_ok=True)
        self._file(assignment.name, "pickle").write_bytes(pickle.dumps(assignment))

    def read(self, name: str) -> Assignment:
        """Read what a job is to run."""
        assignment: Assignment = pickle.loads(self._file(name, "pickle").read_bytes())
        return assignment

    def begin(self, name: str, slurm: str | None) -> bool:
        """Record that this process runs a job, with its Slurm id; False if another process runs it or the job has ended."""
        if self.ended(name) is not None:  # a launcher may itself retry a job that died
            return False
        if (process := self.process(name)) is not None and process["pid"] != os.getpid() and is_alive(process):
            return False
        write_atomic(self._file(name, "process"), json.dumps(this_process()))
        if slurm is not None:
            self._file(name, "slurm").write_text(slurm)
        return True

    def end(self, name: str, done: Done) -> None:
        """Record how a job ended."""
        write_atomic(self._file(name, "json"), json.dumps({"state": done.state, "reason": done.reason}))

    def process(self, name: str) -> dict[str, Any] | None:
        """The last process that began a job; None if there is none."""
        return _object(self._file(name, "process"))

    def slurm_id(self, name: str) -> str | None:
        """The Slurm id of a job; None if Slurm does not run it or it has not begun."""
        try:
            return self._file(name, "slurm").read_text().strip()
        except OSError:
            return None

    def ended(self, name: str) -> Done | None:
        """How a job ended; None if it has not ended, or was killed."""
        noted = _object(self._file(name, "json"))
        return None if noted is None else Done(noted["state"], reason=noted["reason"])

    def raise_flag(self, flag: str) -> None:
        """Raise the flag STOP or HALT for all jobs."""
        (self.directory / _FOLDER / flag).touch()

    def has_flag(self, flag: str) -> bool:
        """Whether that flag is raised."""
        return (self.directory / _FOLDER / flag).exists()

    def clear_flags(self) -> None:
        """Remove the files by which jobs are signalled."""
        for flag in (STOP, HALT):
            (self.directory / _FOLDER / flag).unlink(missing_ok=True)


def _object(file: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


# The state of the jobs that a launcher runs, from their records, their files and Slurm's queue.


QUEUE_TICK = 5.0  # seconds between two queries of a cluster's queue


@dataclass
class JobTracker:
    """Follows jobs that run outside the sweep's processes. halts: whether a failed job keeps others from beginning."""

    state: SweepState
    view: SweepObserver
    halts: bool = False
    _lost: dict[str, float] = field(default_factory=dict)
    _asked_queue: float = -1e9

    def __post_init__(self) -> None:
        self.files = JobFiles(self.state.directory)

    @property
    def is_on_cluster(self) -> bool:
        """Whether Slurm runs the jobs."""
        return slurm.is_used(self.state.directory)

    def refresh(self, job: JobState) -> None:
        """Update the step and score of a running job, and its state if it has ended."""
        seen = listed(self.state.directory / job.name, now=time.time())
        if seen.record is not None:
            job.step, job.score, job.seconds = seen.step, seen.score, seen.time
        if self.files.ended(job.name) is not None:
            self.settle(job)

    def find_lost(self, jobs: Sequence[JobState]) -> None:
        """Settle jobs that have been missing from the queue for a while without recording how they ended."""
        now = time.monotonic()
        if now - self._asked_queue < QUEUE_TICK:
            return
        self._asked_queue = now
        queue = slurm.queue()
        for job in jobs:
            if slurm.is_queued(self.state.directory, queue, self.files.slurm_id(job.name)):
                self._lost.pop(job.name, None)
            elif now - self._lost.setdefault(job.name, now) > slurm.PATIENCE:
                self.refresh(job)
                self.settle(job)

    def settle(self, job: JobState, *, problem: str = "") -> None:
        """Set the final state of a job that no longer runs. problem: the error of its launcher, if there was one."""
        if job.state != RUNNING:
            return
        figures = completed_score(self.state.directory, job)
        if figures is not None:
            job.end(COMPLETED, figures=figures)
        elif self.files.has_flag(STOP) or (self.files.has_flag(HALT) and not self.has_begun(job)):
            job.end(INTERRUPTED if self.has_begun(job) else WAITING)
        else:
            job.end(FAILED, reason=self._cause(job, problem))
            mark_failed(self.state.directory / job.name, job.reason or "")
            job.log_tail = tail(self.state.directory / job.name / LOG)
            if self.halts:
                self.files.raise_flag(HALT)
        if job.state != WAITING:
            self.view.ended(job)

    def _cause(self, job: JobState, problem: str) -> str:
        done = self.files.ended(job.name)
        if done is not None and done.reason:
            return done.reason
        if problem and not self.has_begun(job):
            return problem
        return "the process of the job was lost: killed, perhaps because the memory was full"

    def has_begun(self, job: JobState) -> bool:
        """Whether a process has begun to run the job."""
        return self.files.process(job.name) is not None

    def process(self, job: JobState) -> int | None:
        """The process of a job on this machine, if it is alive and is not this one."""
        process = self.files.process(job.name)
        if process is None or self.files.ended(job.name) is not None or process["pid"] == os.getpid() or not is_alive(process):
            return None
        return int(process["pid"])

    def left_running(self, jobs: Sequence[JobState]) -> list[JobState]:
        """The jobs of an earlier start of the sweep that still run; a cluster's jobs that had not begun are cancelled."""
        queue: set[str] = set()
        if self.is_on_cluster:
            slurm.cancel_pending(self.state.directory)
            queue = slurm.queue("RUNNING,COMPLETING") or set()
        running = [job for job in jobs if self.process(job) is not None or self._is_in(queue, job)]
        for job in running:
            job.state = RUNNING
        return running

    def _is_in(self, queue: set[str], job: JobState) -> bool:
        return self.files.slurm_id(job.name) in queue and self.files.ended(job.name) is None

    def may_still_run(self, jobs: Sequence[JobState]) -> bool:
        """Whether one of these jobs may still run although its launcher has returned."""
        running = [job for job in jobs if job.state == RUNNING]
        if not running or any(self.process(job) is not None for job in running):
            return bool(running)
        return self.is_queued()

    def is_queued(self) -> bool:
        """Whether the queue of a cluster holds any job of the sweep."""
        return self.is_on_cluster and slurm.is_queued(self.state.directory, slurm.queue())
