"""Slurm, asked directly: its accounting may be off, and then submitit waits for ever for a job that was killed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PATIENCE = 20.0  # seconds after which a job that the queue does not know counts as lost
_FOLDER = ".submitit"  # below the sweep's directory, where hydra's launcher puts it
_JOB = re.compile(r"(\d+)(?:_\d+)?")


def job_ids(directory: Path) -> list[str]:
    """The ids that Slurm gave to the jobs of a sweep, arrays as one."""
    folder = directory / _FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [match[1] for name in names if (match := _JOB.fullmatch(name))]
    return list(dict.fromkeys(found))


def is_used(directory: Path) -> bool:
    """Whether Slurm runs the jobs of a sweep: its launcher writes a batch script."""
    return any((directory / _FOLDER).glob("*/*submission.sh")) or any((directory / _FOLDER).glob("*submission*.sh"))


def is_queued(directory: Path) -> bool:
    """Whether the queue holds any job of a sweep; in doubt (Slurm does not answer) it does."""
    ids = job_ids(directory)
    if not ids or not is_used(directory):
        return False
    answer = _slurm("squeue", "-h", "-o", "%i", "--me")
    if answer is None:
        return True
    queued = {found.partition("_")[0] for found in answer.split()}
    return any(name in queued for name in ids)


def cancel(directory: Path) -> None:
    """Take the jobs of a sweep out of the queue, with a SIGTERM to those that run."""
    ids = job_ids(directory)
    if ids and is_used(directory):
        _slurm("scancel", "--full", "--signal=TERM", *ids)
        _slurm("scancel", "--state=PENDING", *ids)


def requeue() -> bool:
    """In a job of Slurm that was signalled before its time limit: ask for the job to be run again; whether that was granted."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    if name is None or os.environ.get("SLURM_JOB_NAME") == "interactive":
        return False
    return _slurm("scontrol", "requeue", name) is not None


def _slurm(*command: str) -> str | None:
    """What a command of Slurm prints; None if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
