"""What became of the jobs that a launcher runs: told by their records, their files and Slurm's queue."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlx.record.listing import listed
from rlx.record.process import is_alive
from rlx.sweep.cluster import slurm
from rlx.sweep.cluster.job_files import HALT, JobFiles
from rlx.sweep.pool.runner import SweepObserver
from rlx.sweep.pool.worker import LOG, tail
from rlx.sweep.state import COMPLETED, FAILED, INTERRUPTED, RUNNING, WAITING, JobState, SweepState, completed_score, mark_failed

QUEUE_TICK = 5.0  # seconds between two questions to the queue of a cluster


@dataclass
class JobTracker:
    """Follows jobs that run outside of the sweep's processes. halts: whether a failed job keeps others from beginning."""

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
        """Settle jobs that have been missing from the queue for a while without having noted how they ended."""
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

    def settle(self, job: JobState, *, problem: str = "", is_stopping: bool = False) -> None:
        """Set the state of a job that no longer runs. problem: the error of its launcher, if there was one."""
        if job.state != RUNNING:
            return
        figures = completed_score(self.state.directory / job.name)
        if figures is not None:
            job.end(COMPLETED, figures=figures)
        elif is_stopping or (self.files.has_flag(HALT) and not self.has_begun(job)):
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
        """The process that a job runs in, on this machine, if it lives and is not this one."""
        process = self.files.process(job.name)
        if process is None or self.files.ended(job.name) is not None or process["pid"] == os.getpid() or not is_alive(process):
            return None
        return int(process["pid"])

    def left_running(self, jobs: Sequence[JobState]) -> list[JobState]:
        """Those that still run since an earlier start of the sweep; those of a cluster that had not begun are cancelled."""
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
        """Whether one of these jobs may run although its launcher has returned."""
        running = [job for job in jobs if job.state == RUNNING]
        if not running or any(self.process(job) is not None for job in running):
            return bool(running)
        return self.is_queued()

    def is_queued(self) -> bool:
        """Whether the queue of a cluster holds any job of the sweep."""
        return self.is_on_cluster and slurm.is_queued(self.state.directory, slurm.queue())
