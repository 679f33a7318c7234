"""Finds the run that a command has already begun, by the hash of its config."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError, DataError
from rlx.record.directory import SILENT_SECONDS, is_alive
from rlx.record.files import relative
from rlx.record.provenance import config_hash
from rlx.record.run import RunRecord, read_run, written_by
from rlx.record.sources import sources

_POLL_SECONDS = 2.0


def own_run(config: Mapping[str, Any], *, output_dir: Path, directory: Path | None = None) -> RunRecord | None:
    """The newest run with this config that is completed or has a checkpoint to resume from; None if there is none.

    config: resolved, as a run records it. output_dir: runs are searched in output_dir/train. directory: the only place to search,
    if the caller chose one. Raises ConfigError if another process is running that run; a process that cannot be inspected is
    watched until its heartbeat decides.
    """
    digest = config_hash(config, sources(config))
    places = [directory] if directory is not None else _directories(output_dir / "train", digest)
    found = [record for place in places if (record := _read(place)) is not None and record.config_hash == digest]
    for record in sorted(found, key=lambda record: record.started, reverse=True):
        if record.status == "running" and is_alive(record.process) is None and record.process.get("heartbeat"):
            record = _observed(record)
        if record.status == "running":
            raise ConfigError(
                f"resume=auto: {relative(record.directory)} is the run of this command, and {written_by(record)} is running it; "
                "wait for it, or stop it first"
            )
        if record.status == "completed" or any((record.directory / "checkpoint").glob("step_[0-9]*")):
            return record
    return None


def _observed(record: RunRecord) -> RunRecord:
    """The record, once its process (which cannot be inspected) has given a heartbeat or has been silent for too long."""
    file = record.directory / "run.json"
    seen = file.stat().st_mtime
    print(
        f"rlx: resume=auto: {relative(record.directory)} says that it is running on {record.process.get('host')}; "
        f"checking that for up to {SILENT_SECONDS / 60:.0f} minutes",
        file=sys.stderr,
        flush=True,
    )
    while record.status == "running" and file.stat().st_mtime == seen:
        time.sleep(_POLL_SECONDS)
        record = read_run(record.directory)
    return record


def _directories(shelf: Path, digest: str) -> Iterator[Path]:
    """The directories whose run.json contains the hash in its text; thousands are searched, and few are parsed."""
    for file in shelf.glob("*/run.json"):
        try:
            holds = digest.encode() in file.read_bytes()
        except OSError:
            continue  # another process may remove a run in the meantime
        if holds and not file.parent.is_symlink():
            yield file.parent


def _read(place: Path) -> RunRecord | None:
    try:
        return read_run(place)
    except DataError:  # no run there, or a damaged one, which `rlx runs` reports
        return None
