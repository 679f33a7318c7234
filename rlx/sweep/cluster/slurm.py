"""Queries Slurm directly, because with accounting off submitit waits forever for a killed job."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

PATIENCE = 20.0  # seconds after which a job that is not in the queue counts as lost
_FOLDER = ".submitit"  # below the sweep's directory, where Hydra's launcher writes it
_JOB = re.compile(r"(\d+)(?:_\d+)?")


def job_ids(directory: Path) -> list[str]:
    """The Slurm ids of a sweep's jobs; an array has one id."""
    folder = directory / _FOLDER
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    found = [match[1] for name in names if (match := _JOB.fullmatch(name))]
    return list(dict.fromkeys(found))


def is_used(directory: Path) -> bool:
    """Whether Slurm runs the jobs of a sweep, which it does if a batch script exists."""
    return any((directory / _FOLDER).glob("*/*submission.sh")) or any((directory / _FOLDER).glob("*submission*.sh"))


def queue(states: str = "") -> set[str] | None:
    """The ids of the user's waiting, running and ending jobs, array tasks one by one; None if Slurm does not answer.

    states: only jobs in these states, as in `squeue --states`.
    """
    answer = _slurm("squeue", "-h", "-r", "-o", "%i", "--me", *([f"--states={states}"] if states else []))
    return None if answer is None else set(answer.split())


def is_queued(directory: Path, queued: set[str] | None, known: str | None = None) -> bool:
    """Whether a queue holds the job with a known id, or any job of a sweep; True if Slurm does not answer."""
    if queued is None:
        return True
    if known is not None:
        return known in queued
    ids = job_ids(directory)
    return any(found.partition("_")[0] in ids for found in queued)


def cancel(directory: Path) -> None:
    """Cancel the jobs of a sweep, with a SIGTERM to running ones."""
    if is_used(directory):
        _slurm("scancel", "--full", "--signal=TERM", *job_ids(directory))
        cancel_pending(directory)


def cancel_pending(directory: Path) -> None:
    """Cancel the jobs of a sweep that have not begun."""
    if is_used(directory):
        _slurm("scancel", "--state=PENDING", *job_ids(directory))


def this_job() -> str | None:
    """The id of the Slurm job of this process; None outside Slurm."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")
    return None if os.environ.get("SLURM_JOB_NAME") == "interactive" else name


def requeue(job: str) -> bool:
    """Ask Slurm to requeue this job, which was signalled before its time limit; returns whether that was granted."""
    return _slurm("scontrol", "requeue", job) is not None


def _slurm(*command: str) -> str | None:
    """The output of a Slurm command; None if it fails or is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
