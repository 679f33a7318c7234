"""Jobs run by one of Hydra's launchers, on this machine or a cluster. What became of them is read from their records.

A launcher loses the results of a whole batch when one job dies, so nothing that it returns is used.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlx.errors import DataError
from rlx.record.listing import listed
from rlx.record.process import is_alive
from rlx.record.run import read_run
from rlx.sweep import cluster
from rlx.sweep.launched import ORDERS, STOP, LaunchedJob, StopLauncher
from rlx.sweep.messages import Done, Order
from rlx.sweep.pool import tail
from rlx.sweep.runner import View
from rlx.sweep.settings import Settings
from rlx.sweep.state import COMPLETED, ENDED, FAILED, INTERRUPTED, RUNNING, WAITING, JobState, SweepState, completed_score
from rlx.sweep.verdict import mark_failed
from rlx.sweep.worker import LOG

_TICK = 1.0
_QUEUE_TICK = 5.0  # seconds between two questions to the queue of a cluster
Launch = Callable[[Callable[[Any], Any], Sequence[Sequence[str]]], Any]


def _is_no_complaint(record: logging.LogRecord) -> bool:
    """Submitit warns at every look that the accounting is off; nothing here relies on that."""
    return "sacct" not in record.getMessage()


@dataclass
class Delegate:
    """Runs jobs by `launch`, which takes the function that a job calls and the overrides of each job."""

    state: SweepState
    settings: Settings
    view: View
    launch: Launch
    order_of: Callable[[JobState], Any]
    path: Sequence[str]
    asked: int | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _lost: dict[str, float] = field(default_factory=dict)
    _asked_queue: float = -1e9
    _abandoned: bool = False

    def run(self, waiting: Sequence[JobState]) -> None:
        """Launch all jobs, and those that failed again as often as `retries` says."""
        left = list(waiting)
        for attempt in range(self.settings.retries + 1):
            if attempt:
                self.view.note(f"{len(left)} failed jobs are tried again ({attempt} of {self.settings.retries})")
            problem = self._batch(left)
            for job in left:
                self._settle(job, problem)
            left = [job for job in left if job.state == FAILED]
            self.state.write(force=True)
            if not left or self.asked is not None or self.settings.on_failure == "stop":
                return

    def _batch(self, jobs: Sequence[JobState]) -> str:
        """Launch jobs and wait; returns what the launcher says went wrong, if it does."""
        orders = self.state.directory / ORDERS
        orders.mkdir(exist_ok=True)
        (orders / STOP).unlink(missing_ok=True)
        for job in jobs:
            for ending in ("json", "slurm"):
                (orders / f"{job.name}.{ending}").unlink(missing_ok=True)
            order = Order(job.name, os.path.abspath(self.state.directory / job.name), self.order_of(job))
            (orders / f"{job.name}.pickle").write_bytes(pickle.dumps(order))
            job.state, job.reason, job.log_tail = RUNNING, None, None
            job.attempts += 1
        logging.getLogger("submitit").addFilter(_is_no_complaint)
        self._over.clear()
        watcher = threading.Thread(target=self._watch, args=(jobs,), daemon=True)
        before = {number: signal.signal(number, self._caught) for number in (signal.SIGTERM, signal.SIGUSR2)}
        watcher.start()
        try:
            path = tuple(self.path)
            task = LaunchedJob(os.path.abspath(self.state.directory), path, os.getpid(), os.uname().nodename)
            self.launch(task, [[*job.overrides, f"hydra.sweep.subdir={job.name}"] for job in jobs])
        except (KeyboardInterrupt, StopLauncher) as stop:
            if not self._abandoned:
                self.asked = self.asked or (signal.SIGINT if isinstance(stop, KeyboardInterrupt) else _signal_of(str(stop)))
                self._stop(jobs)
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        finally:
            self._over.set()
            watcher.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        return ""

    def _caught(self, number: int, frame: object) -> None:
        if not self._abandoned:
            self.asked = self.asked or number
        raise KeyboardInterrupt

    def _watch(self, jobs: Sequence[JobState]) -> None:
        """While the launcher waits: show where the jobs stand, and notice those that the cluster has lost."""
        while not self._over.wait(_TICK):
            for job in jobs:
                if job.state == RUNNING:
                    self._look(job)
            if cluster.is_used(self.state.directory):
                self._look_for_lost([job for job in jobs if job.state == RUNNING])
            self.state.write()
            self.view.refresh()
            if cluster.is_used(self.state.directory) and all(job.state in ENDED for job in jobs):
                self._abandoned = True  # the launcher would wait for ever for a job that is lost
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)  # SIGINT may be ignored, as under nohup
                return

    def _look(self, job: JobState) -> None:
        seen = listed(self.state.directory / job.name, now=time.time())
        if seen.record is not None:
            job.step, job.score, job.seconds = seen.step, seen.score, seen.time
        if self._done(job) is not None:
            self._settle(job, "")

    def _look_for_lost(self, jobs: Sequence[JobState]) -> None:
        """Settle jobs that the queue has not known for a while, although they have not said that they ended."""
        now = time.monotonic()
        if now - self._asked_queue < _QUEUE_TICK:
            return
        self._asked_queue = now
        queue = cluster.queue()
        for job in jobs:
            if queue is None or cluster.is_queued(self.state.directory, queue, self._slurm_id(job)):
                self._lost.pop(job.name, None)
            elif now - self._lost.setdefault(job.name, now) > cluster.PATIENCE:
                self._look(job)
                self._settle(job, "")

    def _slurm_id(self, job: JobState) -> str | None:
        try:
            return (self.state.directory / ORDERS / f"{job.name}.slurm").read_text().strip()
        except OSError:
            return None

    def _done(self, job: JobState) -> Done | None:
        try:
            said = json.loads((self.state.directory / ORDERS / f"{job.name}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return Done(said["state"], reason=said["reason"])

    def _settle(self, job: JobState, problem: str) -> None:
        """Say of a job that is not running any more how it ended."""
        if job.state != RUNNING:
            return
        figures = completed_score(self.state.directory / job.name)
        done = self._done(job)
        if figures is not None:
            job.end(COMPLETED, figures=figures)
        elif self.asked is not None:
            begun = (self.state.directory / job.name / "run.json").exists()
            job.end(INTERRUPTED if begun else WAITING)
        else:
            reason = done.reason if done is not None and done.reason else problem
            reason = reason or "the process of the job was lost: killed, perhaps because the memory was full"
            job.end(FAILED, reason=reason)
            mark_failed(self.state.directory / job.name, reason)
            job.log_tail = tail(self.state.directory / job.name / LOG)
        if job.state != WAITING:
            self.view.ended(job)

    def _stop(self, jobs: Sequence[JobState]) -> None:
        """Ask every job of the sweep to end with a checkpoint, and wait for it."""
        self.view.note("stopping: the jobs write their checkpoints")
        (self.state.directory / ORDERS / STOP).touch()
        cluster.cancel(self.state.directory)
        until = time.monotonic() + self.settings.grace
        told: set[int] = set()
        while time.monotonic() < until:
            alive = [pid for job in jobs if (pid := self._pid(job)) is not None]
            for pid in alive:
                if pid not in told:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGTERM)
            queue = cluster.queue() if cluster.is_used(self.state.directory) else set()
            if not alive and queue is not None and not cluster.is_queued(self.state.directory, queue):
                return
            time.sleep(0.5)

    def _pid(self, job: JobState) -> int | None:
        """The process of a running job on this machine, if it is not this one."""
        try:
            record = read_run(self.state.directory / job.name)
        except DataError:
            return None
        is_other = record.process.get("pid") != os.getpid()
        if record.status == "running" and is_other and is_alive(dict(record.process)):
            return int(record.process["pid"])
        return None


def _signal_of(reason: str) -> int:
    return next((number for number in (signal.SIGTERM, signal.SIGUSR2) if number.name in reason), signal.SIGINT)
