"""What a sweep and the jobs that a launcher runs for it leave for each other: orders, who works on them, how they ended.

Files, because a launcher may run a job on another machine, and lose what it returns.
"""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.record.files import write_atomic
from rlx.record.process import is_alive, this_process
from rlx.sweep.messages import Done, Order

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
