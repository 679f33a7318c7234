"""A job in the process that a launcher gave it: its order is read from a file, and how it ended is written beside that."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.record.files import write_atomic
from rlx.sweep import cluster
from rlx.sweep.messages import Order
from rlx.sweep.state import INTERRUPTED
from rlx.sweep.worker import run_job

ORDERS = ".orders"
STOP = "stop"  # the file that says that the sweep itself was asked to stop


class StopLauncher(BaseException):
    """Ends a launcher that runs its jobs in this process."""


class Silent:
    """A channel for jobs that nobody listens to: their records tell."""

    def progress(self, step: int, figures: Mapping[str, float], num_steps: int | None = None) -> None:
        """Nothing to tell."""

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        return False


@dataclass(frozen=True)
class LaunchedJob:
    """What a launcher calls in a job's process; it travels there as a pickle. parent: the process of the sweep."""

    directory: str
    path: tuple[str, ...]
    parent: int
    host: str

    def __call__(self, cfg: Any) -> str:
        from hydra.core.hydra_config import HydraConfig

        from rlx.sweep.job import run

        name = Path(HydraConfig.get().runtime.output_dir).name
        sys.path[:] = list(dict.fromkeys([*self.path, *sys.path]))
        forget_modules(Path(self.directory) / "sources")
        os.environ["OMP_NUM_THREADS"] = "1"
        orders = Path(self.directory) / ORDERS
        with open(orders / f"{name}.pickle", "rb") as file:
            order: Order = pickle.load(file)
        if (known := cluster.this_job()) is not None:
            (orders / f"{name}.slurm").write_text(known)
        before = signal.getsignal(signal.SIGTERM)
        done = run_job(run, order, Silent())  # type: ignore[arg-type]
        if done.state == INTERRUPTED and known is not None and not (orders / STOP).exists():
            cluster.requeue(known)  # refused where somebody else has done it
            sys.stdout.flush()
            os._exit(0)  # no result for the launcher: the job is not over
        write_atomic(orders / f"{name}.json", json.dumps({"state": done.state, "reason": done.reason}))
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
