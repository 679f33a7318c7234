"""Writes the record of a run while it runs. A kill at any moment leaves a readable record.

This order makes a resumed run equal the uninterrupted one: everything of a step is logged, then `sync` is called, then the
checkpoint of that step is written; `reopen` removes everything after the checkpoint.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError, RlxError, TrainingError
from rlx.record import provenance as origin
from rlx.record.digest import LOGS, digests_of_logs
from rlx.record.directory import (
    HEARTBEAT_SECONDS,
    Heartbeat,
    filled_directory,
    hold,
    last_step,
    stamped_name,
    this_process,
    truncate_lines,
    utc_now,
)
from rlx.record.files import Appender, full_disk_explained, json_line, json_value, link_latest, write_atomic, write_new
from rlx.record.logger.base import Logger
from rlx.record.run import AlgorithmResult, RunRecord, read_run, written_by
from rlx.record.sources import Source, sources

_RESERVE = ".reserve"
_RESERVE_BYTES = 64 * 1024
COMPLETIONS = "completions.jsonl"
MOST_COMPLETION_BYTES = 4 * 2**20


class Recorder:
    """The only writer of a run's record. Made by `create` or `reopen`; ended by `finish`, `fail` or `interrupt`."""

    def __init__(self, record: RunRecord, sinks: Mapping[str, Logger], warn: Callable[[str], None] | None) -> None:
        self.record = record
        self.directory = record.directory
        self._warn = warn or logging.getLogger("rlx").warning
        self._sinks = dict(sinks)
        self._lock = hold(self.directory)
        self._logged: dict[str, int] = {}  # of a resumed run: file of lines -> the last step in it
        self._heartbeat = Heartbeat(self.directory / "run.json")
        self._files = {name: Appender(self.directory / name) for name in LOGS[:1]}

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str] | None = None,
        *,
        output_dir: str | os.PathLike[str] = "outputs",
        verb: str,
        command: Sequence[str],
        config: Mapping[str, Any],
        config_yaml: str,
        overrides: Sequence[str],
        algorithm: str,
        task: str,
        seed: int,
        threads: int | None = None,
        variant: str | None = None,
        config_hash: str | None = None,
        provenance: Mapping[str, Any] | None = None,
        loggers: Mapping[str, Logger] | None = None,
        latest: bool | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Recorder:
        """Create the run's directory and its first record; no other run gets the same directory.

        directory: chosen by the caller, and refused if it holds a run; None makes `<output_dir>/<verb>/<date>_<time>_<hash>`.
        config: resolved; config_yaml: as composed, for people.
        latest: whether `<output_dir>/<verb>/latest` points to this run; None: only if the caller did not choose the directory.
        The packages that a logger needs are checked before anything is created.
        """
        for logger in (loggers or {}).values():
            logger.check()
        files = sources(config)
        digest = config_hash or origin.config_hash(config, files)
        shelf = Path(output_dir) / verb
        record = RunRecord(
            id=f"{stamped_name(digest[:8])}_{secrets.token_hex(3)}",
            status="running",
            command=list(command),
            verb=verb,
            algorithm=algorithm,
            variant=origin.variant(overrides, algorithm) if variant is None else variant,
            task=task,
            seed=seed,
            threads=threads,
            config=config,
            config_hash=digest,
            overrides=list(overrides),
            sources=[source.to_dict() for source in files],
            provenance=origin.provenance() if provenance is None else provenance,
            started=utc_now(),
            process=_writer(),
        )
        if directory is None:
            place = filled_directory(
                shelf, stamped_name(digest[:8]), lambda unfinished: _first_write(record, config_yaml, files, unfinished)
            )
        else:
            place = Path(directory)  # a sweep may have created it
            with full_disk_explained(place):
                place.mkdir(parents=True, exist_ok=True)
            _first_write(record, config_yaml, files, place.absolute())
        record = dataclasses.replace(record, directory=place.absolute())  # the run's own code may change the working directory
        if latest if latest is not None else directory is None:
            with contextlib.suppress(OSError):
                shelf.mkdir(parents=True, exist_ok=True)
                link_latest(place, shelf / "latest")
        return cls(record, loggers or {}, warn)._opened(None)

    @classmethod
    def reopen(
        cls,
        directory: str | os.PathLike[str],
        step: int,
        *,
        command: Sequence[str] | None = None,
        loggers: Mapping[str, Logger] | None = None,
        warn: Callable[[str], None] | None = None,
        **changed: Any,
    ) -> Recorder:
        """Reopen the record of a run at the checkpoint of `step`; lines logged after that step are removed.

        changed: fields of the record that the resume replaces (config, config_hash, threads, ...).
        """
        for logger in (loggers or {}).values():
            logger.check()
        before = read_run(Path(directory).absolute())
        if before.status == "running":
            raise ConfigError(
                f"{before.directory}: the run is still running ({written_by(before)}); wait for it, or stop it first"
            )
        resumed = [
            *before.resumed,
            {
                "step": step,
                "logged": last_step(before.directory / LOGS[0]),
                "time": utc_now(),
                "command": list(command or ()),
                "status": before.status,
                "ranks_before": before.config.get("ranks", 1),
                "ranks": changed.get("config", before.config).get("ranks", 1),
            },
        ]
        record = dataclasses.replace(
            before, status="running", ended=None, error=None, result=None, logs={}, process=_writer(), resumed=resumed, **changed
        )
        recorder = cls(record, loggers or {}, warn)
        for name in (*LOGS, COMPLETIONS):
            truncate_lines(record.directory / name, step)
            recorder._logged[name] = last_step(record.directory / name)
        recorder._write()
        return recorder._opened(step)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line of metrics; evaluations are on the disk when this returns."""
        values = {name: _figure(name, value) for name, value in metrics.items()}
        self._append("metrics.jsonl", {"step": int(step), **values})
        if any(name.startswith("eval/") for name in values):
            self.sync()
        self._tell("log", step, values)

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Store sample completions (prompt, completion, reward, ...) for reports."""
        kept = [dict(row) for row in rows]
        for row in (
            kept if step > self._logged.get("samples.jsonl", -1) else ()
        ):  # the last step is evaluated again after the resume
            self._append("samples.jsonl", {"step": int(step), **row})
        self._tell("samples", step, kept)

    def answers(
        self, step: int, scores: Sequence[float], *, digest: str = "", completions: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Store the score of each held-out prompt, so that two runs can be compared prompt by prompt.

        digest: of the prompts. completions: of each prompt. Those of the last evaluation replace earlier ones, in a file of at
        most MOST_COMPLETION_BYTES; if they are larger, only those of the first prompts are kept.
        """
        if scores and step > self._logged.get("answers.jsonl", -1):
            self._append("answers.jsonl", {"step": int(step), "score": list(scores), **({"prompts": digest} if digest else {})})
        lines: list[bytes] = []
        size = 0
        for row, score in zip(completions, scores, strict=False):
            line = json_line({"step": int(step), "score": score, **row})
            size += len(line)
            if size > MOST_COMPLETION_BYTES:
                break
            lines.append(line)
        if lines:
            with full_disk_explained(self.directory / COMPLETIONS):
                write_atomic(self.directory / COMPLETIONS, b"".join(lines))

    def sync(self) -> None:
        """Wait until everything logged is on the disk; call it before a checkpoint is written."""
        for file in self._files.values():
            file.sync()

    def update(self, **fields: Any) -> None:
        """Replace fields of the record (threads, provenance, ...) and write it."""
        self.record = dataclasses.replace(self.record, **fields)
        self._write()

    def finish(self, result: AlgorithmResult) -> None:
        """Record that the run has completed."""
        self._end("completed", result=result)

    def fail(self, error: BaseException, **details: Any) -> None:
        """Record that the run failed. Never raises, so that the user sees the original error. details: step, term, ..."""
        note = {"type": type(error).__name__, "message": str(error), **details}
        if not isinstance(error, RlxError):
            note["traceback"] = "".join(traceback.format_exception(error))
        try:
            self._end("failed", error=note)
        except (RlxError, OSError) as second:
            self._warn(f"the record in {self.directory} could not be ended ({second}); it will be shown as interrupted")

    def interrupt(self, **details: Any) -> None:
        """Record that the run was stopped from outside and can be resumed. details: signal, step, ..."""
        self._end("interrupted", error={"type": "Interrupted", "message": "stopped from outside", **details})

    def _opened(self, step: int | None) -> Recorder:
        for name, sink in list(self._sinks.items()):
            self._guarded(name, partial(sink.open, self.record, resumed_at=step))
        return self

    def _append(self, name: str, row: Mapping[str, Any]) -> None:
        if name not in self._files:
            self._files[name] = Appender(self.directory / name)
        self._files[name].append(json_line(row))

    def _tell(self, what: str, *arguments: Any) -> None:
        for name, sink in list(self._sinks.items()):
            self._guarded(name, partial(getattr(sink, what), *arguments))

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        """Call a tracker; if it fails, it is switched off with one warning, so that it cannot end a run."""
        try:
            act()
        except Exception as error:
            self._sinks.pop(name, None)
            reason = f"{type(error).__name__}: {error}"
            self._warn(f"logger {name} failed and is switched off: {reason} (metrics.jsonl keeps everything)")

    def _end(self, status: str, *, result: AlgorithmResult | None = None, error: Mapping[str, Any] | None = None) -> None:
        self.record = dataclasses.replace(self.record, status=status, ended=utc_now(), error=error, result=result)
        with contextlib.suppress(TrainingError):  # the record itself matters more than the last lines
            self.sync()
        if status == "completed":
            try:
                self.record = dataclasses.replace(self.record, logs=digests_of_logs(self.directory))
            except OSError as error:  # the result matters more than its digests
                self._warn(f"what was logged in {self.directory} cannot be read back, and has no digests: {error}")
        try:
            self._write()
        except TrainingError:
            (self.directory / _RESERVE).unlink(missing_ok=True)  # frees room on a full disk for the final record
            self._write()
        (self.directory / _RESERVE).unlink(missing_ok=True)
        self._heartbeat.stop()
        self._tell("close", status)
        for file in self._files.values():
            file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self) -> None:
        file = self.directory / "run.json"
        with full_disk_explained(file):
            write_atomic(file, _text(self.record))


def _writer() -> dict[str, Any]:
    return {**this_process(), "heartbeat": HEARTBEAT_SECONDS}


def _text(record: RunRecord) -> bytes:
    return json.dumps(json_value(record.to_dict()), indent=2, allow_nan=False).encode("ascii") + b"\n"


def _figure(name: str, value: Any) -> float | int:
    """A metric as a number; accepts tensors and numpy scalars of one element."""
    plain = json_value(value)
    while isinstance(plain, list) and len(plain) == 1:
        plain = plain[0]
    if plain is None or isinstance(plain, (list, dict)):
        raise TrainingError(f"metric {name} is {value!r:.80}, not one number; log its mean, or several metrics")
    try:
        return int(plain) if isinstance(plain, int) else float(plain)
    except ValueError:
        raise TrainingError(f"metric {name} is {value!r:.80}, not a number") from None


def _first_write(record: RunRecord, config_yaml: str, files: Sequence[Source], directory: Path) -> None:
    file = directory / "run.json"
    with full_disk_explained(file):
        try:
            write_new(file, _text(record))
        except FileExistsError:
            mend = f"choose another directory, or resume the run: resume={directory}"
            raise ConfigError(f"{directory} already holds a run; {mend}") from None
        write_atomic(directory / "config.yaml", config_yaml)
        for source in files:
            copy = directory / source.copy
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, source.file.read_bytes())
        (directory / _RESERVE).write_bytes(os.urandom(_RESERVE_BYTES))
