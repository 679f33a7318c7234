"""Runs that were completed elsewhere with the same config, sources and code: their records are copied, nothing is run."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping
from pathlib import Path

from rlx.errors import DataError
from rlx.record.files import write_atomic
from rlx.record.provenance import code_hash
from rlx.record.run import RunRecord, find_run_directories, read_run
from rlx.sweep.state import COMPLETED, ENDED, SweepState

# run.json comes last: with it the copy counts as a run
_EVIDENCE = ("config.yaml", "metrics.jsonl", "samples.jsonl", "answers.jsonl", "completions.jsonl")


def take_over_completed(state: SweepState, shelf: Path) -> None:
    """Give every waiting job the record of a completed run of its config hash, where there is one below `shelf`."""
    wanted = {job.config_hash: job for job in state.jobs.values() if job.state not in ENDED}
    if not wanted or not shelf.is_dir():
        return
    for directory in find_run_directories(shelf):
        try:
            record = read_run(directory)
        except DataError:
            continue
        job = wanted.get(record.config_hash)
        if job is None or not _is_usable(record):
            continue
        place = state.directory / job.name
        if (place / "run.json").exists() or place.resolve() == directory.resolve():
            continue
        copy_record(directory, place)
        job.end(COMPLETED, figures=dict(record.result.performance_metrics) if record.result else None)
        job.reused_from = str(directory)
        del wanted[record.config_hash]
    state.write(force=True)


def _is_usable(record: RunRecord) -> bool:
    is_whole = record.status == COMPLETED and record.result is not None
    return is_whole and record.provenance.get("rlx", {}).get("code") == code_hash() and not _has_newer_files(record)


def _has_newer_files(record: RunRecord) -> bool:
    """Whether a file that the task or the policy is read from was written since: its content is no part of the config's hash."""
    begun = datetime.datetime.fromisoformat(record.started).timestamp()
    nodes = [value for key in ("task", "policy") if isinstance(value := record.config.get(key), Mapping)]
    named = [Path(value).expanduser() for node in nodes for value in node.values() if isinstance(value, str)]
    files = [file for path in named for file in ((path, *path.iterdir()) if path.is_dir() else (path,))]
    return any(file.exists() and file.stat().st_mtime > begun for file in files)


def copy_record(source: Path, place: Path) -> None:
    """Copy what is evidence of a run: its record and metrics, not its checkpoints."""
    place.mkdir(parents=True, exist_ok=True)
    for name in _EVIDENCE:
        if (source / name).exists():
            shutil.copy2(source / name, place / name)
    write_atomic(place / "run.json", (source / "run.json").read_bytes())
