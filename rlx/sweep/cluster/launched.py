"""A job in the process that a launcher gave it: its order is read from a file, and how it ended is written beside that."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rlx.sweep.cluster import slurm as cluster
from rlx.sweep.cluster.standing import HALT, STOP, Orders
from rlx.sweep.pool.messages import Done
from rlx.sweep.pool.worker import run_job
from rlx.sweep.state import FAILED, INTERRUPTED, RUNNING, WAITING, timeout_reason


class StopLauncher(BaseException):
    """Ends a launcher that runs its jobs in this process."""


class Silent:
    """A channel for jobs that nobody listens to: their records tell."""

    def progress(self, step: int, figures: Mapping[str, float], num_steps: int | None = None) -> None:
        """Nothing to tell."""

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        return False


class Limit:
    """After `seconds`, asks this process to stop with a checkpoint; where that takes longer than `grace`, `give_up` is called.

    reason: why it was asked; empty as long as it was not. seconds: None for no limit.
    """

    def __init__(self, seconds: float | None, grace: float, give_up: Callable[[str], None]) -> None:
        self.reason = ""
        self._seconds, self._grace, self._give_up = seconds, grace, give_up
        self._over = threading.Event()

    def __enter__(self) -> Limit:
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

    parent: the process of the sweep. timeout, grace: seconds, as in the settings. halts: after a failure none begins.
    """

    directory: str
    path: tuple[str, ...]
    parent: int
    timeout: float | None
    grace: float
    halts: bool

    def __call__(self, cfg: Any) -> str:
        from hydra.core.hydra_config import HydraConfig

        from rlx.sweep.job import run

        name = Path(HydraConfig.get().runtime.output_dir).name
        orders, slurm = Orders(Path(self.directory)), cluster.this_job()
        if orders.is_told(HALT) or orders.is_told(STOP):
            return WAITING
        if not orders.begin(name, slurm):
            return RUNNING
        sys.path[:] = list(dict.fromkeys([*self.path, *sys.path]))
        forget_modules(Path(self.directory) / "sources")
        os.environ["OMP_NUM_THREADS"] = "1"
        before = signal.getsignal(signal.SIGTERM)

        def give_up(reason: str) -> None:
            if os.getpid() != self.parent:
                orders.end(name, Done(FAILED, reason=reason))
                os._exit(1)

        with Limit(self.timeout, self.grace, give_up) as limit:
            done = run_job(run, orders.read(name), Silent())  # type: ignore[arg-type]
        if limit.reason and done.state == INTERRUPTED:
            done = Done(FAILED, reason=limit.reason)
        if done.state == INTERRUPTED and slurm is not None and not orders.is_told(STOP):
            cluster.requeue(slurm)  # refused where somebody else has done it
            sys.stdout.flush()
            os._exit(0)  # no result for the launcher: the job is not over
        orders.end(name, done)
        if done.state == FAILED and self.halts:
            orders.tell(HALT)
        with contextlib.suppress(TypeError, ValueError):
            signal.signal(signal.SIGTERM, before)
        if done.state == INTERRUPTED and os.getpid() == self.parent:
            raise StopLauncher(done.reason)
        return done.state


def forget_modules(folder: Path) -> None:
    """Hydra has composed the job with the user's modules as they are now; the job shall import the sweep's copies."""
    for file in folder.rglob("*.py") if folder.is_dir() else []:
        parts = file.relative_to(folder).with_suffix("").parts
        sys.modules.pop(".".join(parts[:-1] if parts[-1] == "__init__" else parts), None)
    importlib.invalidate_caches()
