"""Weights & Biases, offline unless asked otherwise: nothing leaves the machine by default."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlx.errors import ExitCode
from rlx.fields import one_of
from rlx.record.logger.base import Logger, already_logged, clean
from rlx.record.run import RunRecord

_EXIT_CODES = {"completed": ExitCode.OK, "failed": ExitCode.FAILED}  # of a run that ended with a status


@dataclass(kw_only=True)
class WandbLogger(Logger):
    """One wandb run per run of rlx, with the same id and its files in the run's directory.

    mode: offline, online or disabled. group: the variant when null, so that seeds are shown together.
    """

    project: str
    mode: str = one_of(("offline", "online", "disabled"))
    entity: str | None
    group: str | None
    name: str | None
    tags: list[str]

    extra: ClassVar[str] = "wandb"
    packages: ClassVar[tuple[str, ...]] = ("wandb",)

    def open(self, run: RunRecord, *, resumed_at: int | None = None) -> None:
        """Begin the run, or continue it."""
        if self.mode != "online":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._skip_to = already_logged(run)
        mode: Any = self.mode
        variant = clean(run.variant)
        self._run = wandb.init(
            project=self.project,
            entity=self.entity,
            mode=mode,
            id=run.id,
            name=self.name or f"{variant} seed={run.seed}",
            group=self.group or variant[:128],
            tags=list(self.tags),
            job_type=run.verb,
            dir=str(run.directory),
            config=clean({**run.config, "config_hash": run.config_hash}),
            resume="allow" if resumed_at is not None and self.mode == "online" else None,
            reinit="create_new",  # a process may hold several runs, and a sweep has one after the other
            save_code=False,
            settings=wandb.Settings(console="off", silent=True, quiet=True),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log metrics under their own names. wandb cannot delete values, so a resumed run skips those it already has."""
        if step > self._skip_to:
            self._run.log(clean(metrics), step=step)

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table of completions."""
        import wandb

        if step > self._skip_to and rows:
            columns = list(rows[0])
            table = wandb.Table(columns=columns, data=[[clean(str(row.get(name, ""))) for name in columns] for row in rows])
            self._run.log({"samples": table}, step=step)

    def close(self, status: str) -> None:
        """The exit code tells wandb how the run ended."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=_EXIT_CODES.get(status, ExitCode.INTERRUPTED))
