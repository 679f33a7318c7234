"""Where the jobs stand that a launcher runs, and what became of them: told by their records, their words and Slurm's queue."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.record.files import write_atomic
from rlx.record.listing import listed
from rlx.record.process import is_alive, this_process
from rlx.sweep.cluster import slurm as cluster
from rlx.sweep.pool.messages import Done, Order
from rlx.sweep.pool.runner import View
from rlx.sweep.pool.worker import LOG, tail
from rlx.sweep.state import COMPLETED, FAILED, INTERRUPTED, RUNNING, WAITING, JobState, SweepState, completed_score, mark_failed

# What a sweep and the jobs that a launcher runs for it leave for each other: orders, who works on them, how they ended.

ORDERS = ".orders"
STOP = "stop"  # the sweep was asked to stop: no job that is signalled wants to be run again
HALT = "halt"  # a job failed, and sweep.on_failure=stop: no further job is begun


@dataclass(frozen=True)
class Orders:
    """The orders of the sweep in a directory, one a job."""

    directory: Path

    def _file(self, name: str, ending: str) -> Path:
        return self.directory / ORDERS / f"{name}.{ending}"

    def give(self, order: Order) -> None:
        """Write an order; what an earlier attempt at the job has left is gone."""
        (self.directory / ORDERS).mkdir(exist_ok=True)
        for ending in ("json", "slurm", "process"):
            self._file(order.name, ending).unlink(missing_ok=True)
        self._file(order.name, "pickle").write_bytes(pickle.dumps(order))

    def read(self, name: str) -> Order:
        """The order of a job."""
        order: Order = pickle.loads(self._file(name, "pickle").read_bytes())
        return order

    def begin(self, name: str, slurm: str | None) -> bool:
        """This process works on a job, as the job of Slurm of that id; False where another one does, or the job has ended."""
        if self.ended(name) is not None:  # a launcher may try again by itself what died
            return False
        if (process := self.process(name)) is not None and process["pid"] != os.getpid() and is_alive(process):
            return False
        write_atomic(self._file(name, "process"), json.dumps(this_process()))
        if slurm is not None:
            self._file(name, "slurm").write_text(slurm)
        return True

    def end(self, name: str, done: Done) -> None:
        """How a job ended."""
        write_atomic(self._file(name, "json"), json.dumps({"state": done.state, "reason": done.reason}))

    def process(self, name: str) -> dict[str, Any] | None:
        """The process that began a job last; None if none did."""
        return _object(self._file(name, "process"))

    def slurm_id(self, name: str) -> str | None:
        """The id that Slurm gave to a job; None if it is none of Slurm's, or has not begun."""
        try:
            return self._file(name, "slurm").read_text().strip()
        except OSError:
            return None

    def ended(self, name: str) -> Done | None:
        """How a job ended; None if it did not say."""
        said = _object(self._file(name, "json"))
        return None if said is None else Done(said["state"], reason=said["reason"])

    def tell(self, word: str) -> None:
        """Say STOP or HALT to all jobs."""
        (self.directory / ORDERS / word).touch()

    def is_told(self, word: str) -> bool:
        """Whether that was said."""
        return (self.directory / ORDERS / word).exists()

    def clear(self) -> None:
        """Nothing is said to the jobs any more."""
        for word in (STOP, HALT):
            (self.directory / ORDERS / word).unlink(missing_ok=True)


def _object(file: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


# Where the jobs stand that a launcher runs, and what became of them: told by their records, their words and Slurm's queue.

QUEUE_TICK = 5.0  # seconds between two questions to the queue of a cluster


@dataclass
class Standing:
    """The jobs of a sweep as they can be seen from outside. halts: a failed job keeps others from beginning."""

    state: SweepState
    view: View
    halts: bool = False
    _lost: dict[str, float] = field(default_factory=dict)
    _asked_queue: float = -1e9

    def __post_init__(self) -> None:
        self.orders = Orders(self.state.directory)

    @property
    def is_on_cluster(self) -> bool:
        """Whether Slurm runs the jobs."""
        return cluster.is_used(self.state.directory)

    def look(self, job: JobState) -> None:
        """Note how far a running job is, and if it says so, how it ended."""
        seen = listed(self.state.directory / job.name, now=time.time())
        if seen.record is not None:
            job.step, job.score, job.seconds = seen.step, seen.score, seen.time
        if self.orders.ended(job.name) is not None:
            self.settle(job)

    def look_for_lost(self, jobs: Sequence[JobState]) -> None:
        """Settle jobs that the queue has not known for a while, although they have not said that they ended."""
        now = time.monotonic()
        if now - self._asked_queue < QUEUE_TICK:
            return
        self._asked_queue = now
        queue = cluster.queue()
        for job in jobs:
            if cluster.is_queued(self.state.directory, queue, self.orders.slurm_id(job.name)):
                self._lost.pop(job.name, None)
            elif now - self._lost.setdefault(job.name, now) > cluster.PATIENCE:
                self.look(job)
                self.settle(job)

    def settle(self, job: JobState, *, problem: str = "", is_stopping: bool = False) -> None:
        """Say of a job that is not running any more how it ended. problem: what its launcher complained of."""
        if job.state != RUNNING:
            return
        figures = completed_score(self.state.directory / job.name)
        if figures is not None:
            job.end(COMPLETED, figures=figures)
        elif is_stopping or (self.orders.is_told(HALT) and not self.has_begun(job)):
            job.end(INTERRUPTED if self.has_begun(job) else WAITING)
        else:
            job.end(FAILED, reason=self._cause(job, problem))
            mark_failed(self.state.directory / job.name, job.reason or "")
            job.log_tail = tail(self.state.directory / job.name / LOG)
            if self.halts:
                self.orders.tell(HALT)
        if job.state != WAITING:
            self.view.ended(job)

    def _cause(self, job: JobState, problem: str) -> str:
        done = self.orders.ended(job.name)
        if done is not None and done.reason:
            return done.reason
        if problem and not self.has_begun(job):
            return problem
        return "the process of the job was lost: killed, perhaps because the memory was full"

    def has_begun(self, job: JobState) -> bool:
        """Whether a process has taken the job's order."""
        return self.orders.process(job.name) is not None

    def process(self, job: JobState) -> int | None:
        """The process that a job runs in, on this machine, if it lives and is not this one."""
        process = self.orders.process(job.name)
        if process is None or self.orders.ended(job.name) is not None or process["pid"] == os.getpid() or not is_alive(process):
            return None
        return int(process["pid"])

    def left_running(self, jobs: Sequence[JobState]) -> list[JobState]:
        """Those that still run since an earlier start of the sweep; those of a cluster that had not begun are taken back."""
        queue: set[str] = set()
        if self.is_on_cluster:
            cluster.cancel_pending(self.state.directory)
            queue = cluster.queue("RUNNING,COMPLETING") or set()
        running = [job for job in jobs if self.process(job) is not None or self._is_in(queue, job)]
        for job in running:
            job.state = RUNNING
        return running

    def _is_in(self, queue: set[str], job: JobState) -> bool:
        return self.orders.slurm_id(job.name) in queue and self.orders.ended(job.name) is None

    def may_still_run(self, jobs: Sequence[JobState]) -> bool:
        """Whether one of these jobs may run although its launcher has returned."""
        running = [job for job in jobs if job.state == RUNNING]
        if not running or any(self.process(job) is not None for job in running):
            return bool(running)
        return self.is_queued()

    def is_queued(self) -> bool:
        """Whether the queue of a cluster holds any job of the sweep."""
        return self.is_on_cluster and cluster.is_queued(self.state.directory, cluster.queue())
