"""MLflow: a local database by default, or any tracking server."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rlx.fields import within
from rlx.record.logger.base import Logger, clean, logged_config, samples_as_markdown
from rlx.record.run import RunRecord

_BATCH = 1000  # the most metrics that one MLflow request accepts
_PARAMS = 100
_LONGEST = 6000
# MLflow's default timeouts would block a run for minutes if its server is gone; environment variables override these.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_STATUS = {"completed": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass(kw_only=True)
class MlflowLogger(Logger):
    """One MLflow run per run of rlx; found by its id after a resume.

    tracking_uri: sqlite:///FILE or a server. flush_seconds: metrics wait at most this long, because each request is slow.
    """

    tracking_uri: str
    experiment: str
    name: str | None
    tags: dict[str, str]
    flush_seconds: float = within(at_least=0)

    extra: ClassVar[str] = "mlflow"
    packages: ClassVar[tuple[str, ...]] = ("mlflow", "sqlalchemy")

    def open(self, run: RunRecord, *, resumed_at: int | None = None) -> None:
        """Begin the run, or continue it."""
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        self._waiting: list[Any] = []
        self._sent = time.monotonic()
        self._newest: dict[str, int] = {}  # MLflow cannot delete values: what it already has of a resumed run is not sent again
        with _one_at_a_time(self.tracking_uri):  # the first one creates the database
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            experiment = self._experiment()
        found = [] if resumed_at is None else self._client.search_runs([experiment], f"tags.`rlx.id` = '{run.id}'")
        if found:
            self._id = found[0].info.run_id
            for name in found[0].data.metrics:
                self._newest[name] = max(metric.step for metric in self._client.get_metric_history(self._id, name))
            self._client.update_run(self._id, status="RUNNING")
            return
        variant = clean(run.variant)
        tags = {**self.tags, "rlx.id": run.id, "rlx.variant": variant[:_LONGEST], "rlx.directory": str(run.directory)}
        name = self.name or f"{variant[:200]} seed={run.seed}"
        self._id = self._client.create_run(experiment, tags=clean(tags), run_name=name).info.run_id
        self._params(run)

    def _experiment(self) -> str:
        known = self._client.get_experiment_by_name(self.experiment)
        if known is not None:
            return str(known.experiment_id)
        place = _database(self.tracking_uri)
        artifacts = None if place is None else (place.parent / "mlflow_artifacts").absolute().as_uri()
        return str(self._client.create_experiment(self.experiment, artifact_location=artifacts))

    def _params(self, run: RunRecord) -> None:
        from mlflow.entities import Param

        values = {**logged_config(run.config), "config_hash": run.config_hash}
        params = [Param(_name(key), str(value)[:_LONGEST]) for key, value in values.items()]
        for start in range(0, len(params), _PARAMS):
            self._client.log_batch(self._id, params=params[start : start + _PARAMS])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Collect the metrics until a batch is worth sending; evaluations are sent at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = {_name(name): float(value) for name, value in metrics.items()}
        new = {name: value for name, value in values.items() if step > self._newest.get(name, -1)}
        self._waiting += [Metric(name, value, now, step) for name, value in new.items()]
        due = time.monotonic() - self._sent > self.flush_seconds or len(self._waiting) >= _BATCH
        if due or any(name.startswith("eval/") for name in metrics):
            self._send()

    def _send(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._client.log_batch(self._id, metrics=batch)
        self._sent = time.monotonic()

    def samples(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """The completions as a text file among the artifacts."""
        self._client.log_text(self._id, samples_as_markdown(rows), f"samples/step_{step}.md")

    def close(self, status: str) -> None:
        """Send the rest, and how the run ended."""
        self._send()
        self._client.set_terminated(self._id, status=_STATUS.get(status, "KILLED"))


def _name(name: str) -> str:
    """A valid MLflow name: letters, digits, spaces and _ - . / :"""
    return re.sub(r"[^\w\-./: ]", "_", clean(name))


def _database(tracking_uri: str) -> Path | None:
    """The file of a local database; None for a server."""
    return Path(tracking_uri.removeprefix("sqlite:///")) if tracking_uri.startswith("sqlite:///") else None


@contextlib.contextmanager
def _one_at_a_time(tracking_uri: str) -> Iterator[None]:
    """A lock, so that jobs of a sweep that start together do not create the same database at the same time."""
    database = _database(tracking_uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(database.with_name(f".{database.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
