"""A job in the process that a launcher gave it: what to run is read from a file, and how it ended is written beside that."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rlx.errors import ExitCode
from rlx.sweep.cluster import slurm
from rlx.sweep.cluster.job_files import HALT, STOP, JobFiles
from rlx.sweep.kept import KeptModule, serve_kept
from rlx.sweep.pool.messages import Done
from rlx.sweep.pool.worker import run_logged
from rlx.sweep.state import FAILED, INTERRUPTED, RUNNING, WAITING, timeout_reason


class StopLauncher(BaseException):
    """Ends a launcher that runs its jobs in this process."""


class SilentChannel:
    """The channel of a job whose progress is read from its record: it sends nothing."""

    def progress(self, step: int, figures: Mapping[str, float], num_steps: int | None = None) -> None:
        """Sends nothing."""

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        return False


class TimeLimit:
    """After `seconds`, asks this process to stop with a checkpoint; where that takes longer than `grace`, `give_up` is called.

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
    """What a launcher calls in a job's process; it travels there as a pickle.

    kept: the user's modules, imported from the sweep's copies. parent: the process of the sweep. timeout, grace: seconds, as in
    the settings. halts: whether a failure keeps further jobs from beginning.
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
        serve_kept(self.kept)  # not what Hydra has imported to compose the job
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
            slurm.requeue(slurm_id)  # refused where somebody else has done it
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
