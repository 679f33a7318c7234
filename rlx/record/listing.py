"""One run in a list of runs: its state, score and steps, also while it runs, and all keys to filter it by."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlx.errors import DataError
from rlx.nested import leaves
from rlx.record.files import each_metrics, number, read_tail
from rlx.record.run import RunRecord, read_run

_TAIL = 16 * 1024
_SCORES = (
    "accuracy",
    "greedy_reward",
    "pair_accuracy",
    "log_likelihood",
)  # the first of these that an evaluation has is its score


@dataclass(frozen=True)
class Listed:
    """One line of the list. name: its directory, as a user can type it; reason: why a damaged record cannot be read."""

    name: str
    directory: Path
    record: RunRecord | None
    now: float
    reason: str = ""

    @property
    def status(self) -> str:
        """running, completed, failed, interrupted, or damaged."""
        return "damaged" if self.record is None else self.record.status

    @property
    def state(self) -> str:
        """The status; `pruned` for a run that its search stopped early."""
        error = None if self.record is None else self.record.error
        is_pruned = self.status == "interrupted" and error is not None and error.get("signal") == "PRUNED"
        return "pruned" if is_pruned else self.status

    @cached_property
    def last(self) -> Mapping[str, Any]:
        """The newest value of every metric: from the record of a finished run, otherwise from the end of its metrics file."""
        if self.record is None:
            return {}
        result = self.record.result
        if result is not None and "steps" in result.metadata:
            return {**result.performance_metrics, "step": result.metadata["steps"]}
        try:
            lines: Iterable[Mapping[str, Any]] = read_tail(self.directory / "metrics.jsonl", _TAIL)
            if not any("eval/score" in line for line in lines):
                lines = each_metrics(self.directory)
            merged = {key: number(value) for line in lines for key, value in line.items()}
        except DataError:
            return {} if result is None else result.performance_metrics
        return merged if result is None else {**merged, **result.performance_metrics}

    @property
    def score(self) -> float | None:
        """The score of the newest evaluation."""
        return self.last.get("eval/score")

    @property
    def scored_by(self) -> str | None:
        """The name of the figure that is the score; None before the first evaluation."""
        return None if self.score is None else next((name for name in _SCORES if f"eval/{name}" in self.last), None)

    @property
    def step(self) -> int | None:
        """The last completed step."""
        return self.last.get("step")

    @property
    def num_steps(self) -> int | None:
        """The number of planned steps."""
        return None if self.record is None else self.record.config.get("num_steps")

    @property
    def age(self) -> float | None:
        """Seconds since the run began."""
        begun = None if self.record is None else _seconds(self.record.started)
        return None if begun is None else self.now - begun

    @property
    def time(self) -> float | None:
        """Seconds from the run's start to its end, or to now."""
        ended = None if self.record is None or self.record.ended is None else _seconds(self.record.ended)
        if self.age is None or (self.status == "interrupted" and ended is None):
            return None
        return self.age - (0.0 if ended is None else self.now - ended)

    @property
    def sweep(self) -> str | None:
        """The sweep that the run is a job of: the directory above it that holds a plan."""
        above = self.directory.parent
        return above.name if (above / "sweep.json").exists() or above.parent.name == "sweep" else None

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """Every key that the run can be filtered, sorted and shown by: the record's own, the config's, the newest metrics."""
        record = self.record
        if record is None:
            return {"run": self.name, "status": self.status, "state": self.status, "error": self.reason}
        own = {name: getattr(record, name) for name in ("id", "verb", "algorithm", "variant", "task", "seed", "started", "ended")}
        error = None if record.error is None else record.error.get("message")
        metrics = {name: value for name, value in self.last.items() if "/" in name}
        figures = {
            "score": self.score,
            "scored_by": self.scored_by,
            "steps": self.step,
            "age": self.age,
            "time": self.time,
            "sweep": self.sweep,
        }
        known = {"run": self.name, "status": self.status, "state": self.state, "config_hash": record.config_hash, "error": error}
        return {**metrics, **_settings(record.config), **own, **figures, **known}


def _seconds(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys and their values; lists unchanged; a node's class, without its module, under the node's own name."""
    found: dict[str, Any] = {}
    for path, value in leaves(config).items():
        node, _, key = path.rpartition(".")
        if key == "_target_" and node:
            found[node] = str(value).rpartition(".")[2]
        elif not isinstance(value, Mapping):
            found[path] = number(value)
    return found


def listed(directory: Path, *, now: float, start: str | os.PathLike[str] = ".") -> Listed:
    """The line of one run directory; a damaged record gets a line too. start: the folder that its name is relative to."""
    absolute = os.path.abspath(directory)
    relative = os.path.relpath(absolute, start)
    name = absolute if relative.startswith("..") else relative
    try:
        return Listed(name, directory, read_run(directory), now)
    except DataError as error:
        return Listed(name, directory, None, now, str(error))
