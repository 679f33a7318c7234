"""What is imported while a sweep is planned and run, so that nobody waits for it later."""

from __future__ import annotations

import contextlib
import importlib
import math
import threading

from rlx.sweep.pool import Pool
from rlx.sweep.resources import environments, num_workers
from rlx.sweep.settings import RandomSettings, Settings
from rlx.sweep.space import Space

_WARM = ("rlx.sweep.job", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "rlx.rollout.transformers")


def warming_pool(task: str, settings: Settings, space: Space, *, default_threads: int | None) -> Pool:
    """Processes that import what every job needs while the plan is made; how many of them stay is known after it."""
    fixed = [text.partition("=")[2] for text in space.fixed if text.startswith("threads=")]
    threads = int(fixed[-1]) if fixed and fixed[-1].isdigit() else default_threads or 1
    points = math.prod(max(1, len(axis.points)) for axis in space.axes)
    most = points * len(space.seeds) * (settings.trials if isinstance(settings, RandomSettings) else 1)
    size = min(num_workers(settings.workers, threads=threads), most)
    pool = Pool(size, task, grace=settings.grace, environments=environments(size), warm=_WARM)
    pool.start()
    return pool


def warm_comparison(settings: Settings) -> None:
    """Import meanwhile what the comparison at the end needs."""

    def imported() -> None:
        with contextlib.suppress(Exception):  # said when it is needed
            for name in ("rlx.compare.comparison", "rlx.report.comparison"):
                importlib.import_module(name)

    if settings.compare and settings.method != "optuna":
        threading.Thread(target=imported, daemon=True).start()
