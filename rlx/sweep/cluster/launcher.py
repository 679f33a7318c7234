"""Runs jobs with one of Hydra's launchers, on this machine or a cluster: the sweep's side and the side of each job's process.

A launcher loses the results of a whole batch when one job dies, so its return values are not used. A job reads what to run from a
file and writes how it ended to another one (`job_files`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from rlx.comparison.wording import quantity
from rlx.errors import ExitCode
from rlx.interrupt import handled
from rlx.sweep.cluster import slurm
from rlx.sweep.cluster.job_files import HALT, QUEUE_TICK, STOP, JobFiles, JobTracker
from rlx.sweep.kept import KeptModule, serve_kept
from rlx.sweep.plan.settings import Settings
from rlx.sweep.pool.runner import SweepObserver
from rlx.sweep.pool.worker import Assignment, Done, run_logged
from rlx.sweep.state import ENDED, FAILED, INTERRUPTED, RUNNING, WAITING, JobState, SweepState, timeout_reason

_TICK = 1.0
Launch = Callable[[Callable[[Any], Any], Sequence[Sequence[str]]], Any]


# In the process of a job.


class StopLauncher(BaseException):
    """Ends a launcher that runs its jobs in this process."""


class SilentChannel:
    """The channel of a job whose progress is read from its record; it sends nothing."""

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        """Sends nothing."""

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        return False


class TimeLimit:
    """After `seconds`, asks this process to stop with a checkpoint; if that takes longer than `grace`, calls `give_up`.

    reason: why it was asked to stop, empty if it was not. seconds: None for no limit.
    """

    def __init__(self, seconds: float | None, grace: float, give_up: Callable[[str], None]) -> None:
        self.reason = ""
        self._seconds, self._grace, self._give_up = seconds, grace, give_up
        self._over = threading.Event()

    def __enter__(self) -> TimeLimit:
        if self._seconds is not None:
            threading.Thread(target=self._watch, args=(self._seconds,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()

    def _watch(self, seconds: float) -> None:
        if self._over.wait(seconds):
            return
        self.reason = timeout_reason(seconds)
        os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(self._grace):
            self._give_up(self.reason)


@dataclass(frozen=True)
class LaunchedJob:
    """The function object that a launcher calls in a job's process; it is sent there as a pickle.

    kept: the user's modules, imported from the sweep's copies. parent: the process of the sweep. timeout, grace: in seconds, as
    in the settings. halts: whether a failure keeps further jobs from beginning.
    """

    directory: str
    path: tuple[str, ...]
    kept: tuple[KeptModule, ...]
    parent: int
    timeout: float | None
    grace: float
    halts: bool

    def __call__(self, cfg: Any) -> str:
        from hydra.core.hydra_config import HydraConfig

        from rlx.sweep.job import run

        name = Path(HydraConfig.get().runtime.output_dir).name
        files, slurm_id = JobFiles(Path(self.directory)), slurm.this_job()
        if files.has_flag(HALT) or files.has_flag(STOP):
            return WAITING
        if not files.begin(name, slurm_id):
            return RUNNING
        sys.path[:] = list(dict.fromkeys([*self.path, *sys.path]))
        serve_kept(self.kept)  # not the modules that Hydra imported to compose the job
        os.environ["OMP_NUM_THREADS"] = "1"
        before = signal.getsignal(signal.SIGTERM)

        def give_up(reason: str) -> None:
            if os.getpid() != self.parent:
                files.end(name, Done(FAILED, reason=reason))
                os._exit(ExitCode.FAILED)

        with TimeLimit(self.timeout, self.grace, give_up) as limit:
            done = run_logged(run, files.read(name), SilentChannel())  # type: ignore[arg-type]
        if limit.reason and done.state == INTERRUPTED:
            done = Done(FAILED, reason=limit.reason)
        if done.state == INTERRUPTED and slurm_id is not None and not files.has_flag(STOP):
            slurm.requeue(slurm_id)  # refused if another process has done it
            sys.stdout.flush()
            os._exit(ExitCode.OK)  # no result for the launcher: the job is not over
        files.end(name, done)
        if done.state == FAILED and self.halts:
            files.raise_flag(HALT)
        with contextlib.suppress(TypeError, ValueError):
            signal.signal(signal.SIGTERM, before)
        if done.state == INTERRUPTED and os.getpid() == self.parent:
            raise StopLauncher(done.reason)
        return done.state


# In the process of the sweep.


def _is_not_about_accounting(record: logging.LogRecord) -> bool:
    """Filters submitit's repeated warning that Slurm's accounting is off; nothing here relies on accounting."""
    return "sacct" not in record.getMessage()


@dataclass
class LauncherRunner:
    """Runs jobs with `launch`, which takes the function that a job calls and the overrides of each job."""

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
        """Launch all jobs, and relaunch failed ones up to `retries` times.

        Jobs that still run from an earlier start of the sweep are waited for instead of launched.
        """
        running = self.tracker.left_running(waiting)
        if running:
            self.view.note(f"waiting for {quantity(len(running), 'job')} of an earlier start that are still running")
        left = [job for job in waiting if job not in running]
        for attempt in range(self.settings.retries + 1):
            if attempt:
                self.view.note(f"{quantity(len(left), 'failed job')} retried ({attempt} of {self.settings.retries})")
            self._launch_all(left, running, halts=self.settings.on_failure == "stop" and attempt == self.settings.retries)
            running, left = [], [job for job in (*running, *left) if job.state == FAILED]
            self.state.write(force=True)
            if not left or self.stop_signal is not None:
                return

    def _launch_all(self, jobs: Sequence[JobState], running: Sequence[JobState], *, halts: bool) -> None:
        """Launch jobs, relaunch those that a launcher never began because it failed on another job, and wait for running ones."""
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
                f"the launcher failed ({problem}); {quantity(len(left), 'job')} that it had not begun are launched again"
            )
            for job in left:
                job.attempts -= 1
            jobs, running = left, []

    def _batch(self, jobs: Sequence[JobState], running: Sequence[JobState], *, halts: bool) -> str:
        """Launch jobs and wait for them and for running ones; returns the launcher's error, empty if there was none."""
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
        with handled(self._on_signal, (signal.SIGTERM, signal.SIGUSR2)):
            watcher.start()
            try:
                problem = self._launched(jobs, halts=halts) if jobs else ""
                while self.tracker.may_still_run(
                    both
                ):  # a launcher that failed on one job, or an earlier start, left others running
                    time.sleep(QUEUE_TICK if self.tracker.is_on_cluster else _TICK)
            except (KeyboardInterrupt, StopLauncher) as stop:
                if not self._abandoned:
                    told = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else _signal_of(str(stop))
                    self.stop_signal = self.stop_signal or told
                    self._stop(both)
            finally:
                self._over.set()
                watcher.join()
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
        """While the launcher waits, update the jobs and find those that the cluster has lost."""
        while not self._over.wait(_TICK):
            for job in jobs:
                if job.state == RUNNING:
                    self.tracker.refresh(job)
            if self.tracker.is_on_cluster:
                self.tracker.find_lost([job for job in jobs if job.state == RUNNING])
            self.state.write()
            self.view.refresh()
            if self.tracker.is_on_cluster and all(job.state in ENDED for job in jobs):
                self._abandoned = True  # the launcher would wait forever for a lost job
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)  # SIGINT may be ignored, as under nohup
                return

    def _stop(self, jobs: Sequence[JobState]) -> None:
        """Ask every job of the sweep to end with a checkpoint, and wait for them; a second Ctrl-C ends them at once."""
        self.view.note("stopping: the jobs write their checkpoints; press Ctrl-C again to end them at once")
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
        """Send a signal to the jobs that run on this machine; returns whether there are any."""
        processes = [pid for job in jobs if (pid := self.tracker.process(job)) is not None]
        for pid in processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        return bool(processes)


def _signal_of(reason: str) -> int:
    return next((number for number in (signal.SIGTERM, signal.SIGUSR2) if number.name in reason), signal.SIGINT)
