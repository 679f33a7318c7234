"""Jobs run by one of Hydra's launchers, on this machine or a cluster.

A launcher loses the results of a whole batch when one job dies, so nothing that it returns is used (see `tracker`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlx.report.text import quantity
from rlx.sweep.cluster import slurm
from rlx.sweep.cluster.job_files import HALT, QUEUE_TICK, STOP, JobTracker
from rlx.sweep.cluster.launched_job import LaunchedJob, StopLauncher
from rlx.sweep.kept import KeptModule
from rlx.sweep.plan.settings import Settings
from rlx.sweep.pool.messages import Assignment
from rlx.sweep.pool.runner import SweepObserver
from rlx.sweep.state import ENDED, FAILED, RUNNING, JobState, SweepState

_TICK = 1.0
Launch = Callable[[Callable[[Any], Any], Sequence[Sequence[str]]], Any]


def _is_not_about_accounting(record: logging.LogRecord) -> bool:
    """Submitit warns again and again that Slurm's accounting is off; nothing here relies on it."""
    return "sacct" not in record.getMessage()


@dataclass
class LauncherRunner:
    """Runs jobs by `launch`, which takes the function that a job calls and the overrides of each job."""

    state: SweepState
    settings: Settings
    view: SweepObserver
    launch: Launch
    assignment_of: Callable[[JobState], Any]
    path: Sequence[str]
    kept: Sequence[KeptModule] = ()
    stop_signal: int | None = None
    _over: threading.Event = field(default_factory=threading.Event)
    _abandoned: bool = False

    def __post_init__(self) -> None:
        self.tracker = JobTracker(self.state, self.view)
        self.files = self.tracker.files

    def run(self, waiting: Sequence[JobState]) -> None:
        """Launch all jobs, and those that failed again as often as `retries` says.

        Jobs that an earlier start of the sweep began, and that outlived it, are not launched but waited for.
        """
        running = self.tracker.left_running(waiting)
        if running:
            self.view.note(f"waiting for {quantity(len(running), 'job')} of an earlier start, which still run")
        left = [job for job in waiting if job not in running]
        for attempt in range(self.settings.retries + 1):
            if attempt:
                self.view.note(f"{quantity(len(left), 'failed job')} tried again ({attempt} of {self.settings.retries})")
            self._launch_all(left, running, halts=self.settings.on_failure == "stop" and attempt == self.settings.retries)
            running, left = [], [job for job in (*running, *left) if job.state == FAILED]
            self.state.write(force=True)
            if not left or self.stop_signal is not None:
                return

    def _launch_all(self, jobs: Sequence[JobState], running: Sequence[JobState], *, halts: bool) -> None:
        """Launch jobs, and again those that a launcher never began because it broke on another; wait for those that run."""
        while True:
            problem = self._batch(jobs, running, halts=halts)
            left = [job for job in jobs if job.state == RUNNING and not self.tracker.has_begun(job)]
            is_over = self.stop_signal is not None or self.files.has_flag(HALT) or not 0 < len(left) < len(jobs)
            for job in (*running, *jobs):
                if is_over or job not in left:
                    self.tracker.settle(job, problem=problem)
            if is_over:
                return
            self.view.note(
                f"the launcher broke ({problem}); {quantity(len(left), 'job')} that it had not begun are launched again"
            )
            for job in left:
                job.attempts -= 1
            jobs, running = left, []

    def _batch(self, jobs: Sequence[JobState], running: Sequence[JobState], *, halts: bool) -> str:
        """Launch jobs and wait for them and for those that run; returns the launcher's error, empty if there was none."""
        for job in jobs:
            self.files.assign(Assignment(job.name, os.path.abspath(self.state.directory / job.name), self.assignment_of(job)))
            job.state, job.reason, job.log_tail = RUNNING, None, None
            job.attempts += 1
        self.files.clear_flags()
        logging.getLogger("submitit").addFilter(_is_not_about_accounting)
        self._abandoned, self.tracker.halts = False, halts
        self._over.clear()
        both, problem = [*running, *jobs], ""
        watcher = threading.Thread(target=self._watch, args=(both,), daemon=True)
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGUSR2)}
        watcher.start()
        try:
            problem = self._launched(jobs, halts=halts) if jobs else ""
            while self.tracker.may_still_run(both):  # a launcher that broke on one job, or an earlier start, left others
                time.sleep(QUEUE_TICK if self.tracker.is_on_cluster else _TICK)
        except (KeyboardInterrupt, StopLauncher) as stop:
            if not self._abandoned:
                self.stop_signal = self.stop_signal or (
                    signal.SIGINT if isinstance(stop, KeyboardInterrupt) else _signal_of(str(stop))
                )
                self._stop(both)
        finally:
            self._over.set()
            watcher.join()
            for number, handler in before.items():
                signal.signal(number, handler)
        return problem

    def _launched(self, jobs: Sequence[JobState], *, halts: bool) -> str:
        where, settings = os.path.abspath(self.state.directory), self.settings
        task = LaunchedJob(
            where, tuple(self.path), tuple(self.kept), os.getpid(), timeout=settings.timeout, grace=settings.grace, halts=halts
        )
        try:
            self.launch(task, [[*job.overrides, f"hydra.sweep.subdir={job.name}"] for job in jobs])
        except Exception as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return ""

    def _on_signal(self, number: int, frame: object) -> None:
        if self.stop_signal is not None:
            return
        if not self._abandoned:
            self.stop_signal = number
        raise KeyboardInterrupt

    def _watch(self, jobs: Sequence[JobState]) -> None:
        """While the launcher waits: update the jobs, and find those that the cluster has lost."""
        while not self._over.wait(_TICK):
            for job in jobs:
                if job.state == RUNNING:
                    self.tracker.refresh(job)
            if self.tracker.is_on_cluster:
                self.tracker.find_lost([job for job in jobs if job.state == RUNNING])
            self.state.write()
            self.view.refresh()
            if self.tracker.is_on_cluster and all(job.state in ENDED for job in jobs):
                self._abandoned = True  # the launcher would wait for ever for a job that is lost
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)  # SIGINT may be ignored, as under nohup
                return

    def _stop(self, jobs: Sequence[JobState]) -> None:
        """Ask every job of the sweep to end with a checkpoint, and wait for it; Ctrl-C once more ends them at once."""
        self.view.note("stopping: the jobs write their checkpoints; Ctrl-C once more ends them at once")
        self.files.raise_flag(STOP)
        with contextlib.suppress(KeyboardInterrupt):
            slurm.cancel(self.state.directory)
            until = time.monotonic() + self.settings.grace
            while self._signalled(jobs, signal.SIGTERM) or self.tracker.is_queued():
                if time.monotonic() > until:
                    break
                time.sleep(0.5)
        self._signalled(jobs, signal.SIGKILL)

    def _signalled(self, jobs: Sequence[JobState], number: int) -> bool:
        """Send a signal to the jobs that run on this machine; whether there are any."""
        processes = [pid for job in jobs if (pid := self.tracker.process(job)) is not None]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(processes)


def _signal_of(reason: str) -> int:
    return next((number for number in (signal.SIGTERM, signal.SIGUSR2) if number.name in reason), signal.SIGINT)
