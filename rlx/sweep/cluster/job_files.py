"""The files that a sweep and the jobs of a launcher leave for each other: assignments, flags, who runs a job, how it ended."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.record.files import write_atomic
from rlx.record.process import is_alive, this_process
from rlx.sweep.pool.messages import Assignment, Done

_FOLDER = ".orders"
STOP = "stop"  # the flag of a sweep that was asked to stop: a job that is signalled does not ask to be requeued
HALT = "halt"  # the flag of a sweep with sweep.on_failure=stop of which a job failed: no further job begins


@dataclass(frozen=True)
class JobFiles:
    """The files of the jobs of the sweep in `directory`."""

    directory: Path

    def _file(self, name: str, ending: str) -> Path:
        return self.directory / _FOLDER / f"{name}.{ending}"

    def assign(self, assignment: Assignment) -> None:
        """Write what a job is to run, and remove what an earlier attempt at it has left."""
        (self.directory / _FOLDER).mkdir(exist_ok=True)
        for ending in ("json", "slurm", "process"):
            self._file(assignment.name, ending).unlink(missing_ok=True)
        self._file(assignment.name, "pickle").write_bytes(pickle.dumps(assignment))

    def read(self, name: str) -> Assignment:
        """What a job is to run."""
        assignment: Assignment = pickle.loads(self._file(name, "pickle").read_bytes())
        return assignment

    def begin(self, name: str, slurm: str | None) -> bool:
        """Note that this process runs a job, as the job of Slurm of that id; False if another one does, or the job has ended."""
        if self.ended(name) is not None:  # a launcher may try again by itself what died
            return False
        if (process := self.process(name)) is not None and process["pid"] != os.getpid() and is_alive(process):
            return False
        write_atomic(self._file(name, "process"), json.dumps(this_process()))
        if slurm is not None:
            self._file(name, "slurm").write_text(slurm)
        return True

    def end(self, name: str, done: Done) -> None:
        """Note how a job ended."""
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
        """How a job ended; None if it has not ended, or was killed."""
        noted = _object(self._file(name, "json"))
        return None if noted is None else Done(noted["state"], reason=noted["reason"])

    def raise_flag(self, flag: str) -> None:
        """Raise the flag STOP or HALT for all jobs."""
        (self.directory / _FOLDER / flag).touch()

    def has_flag(self, flag: str) -> bool:
        """Whether that flag is raised."""
        return (self.directory / _FOLDER / flag).exists()

    def clear_flags(self) -> None:
        """Take down all flags."""
        for flag in (STOP, HALT):
            (self.directory / _FOLDER / flag).unlink(missing_ok=True)


def _object(file: Path) -> dict[str, Any] | None:
    try:
        values = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
