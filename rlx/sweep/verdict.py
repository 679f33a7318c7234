"""The sweep's word on a run that cannot give its own any more: its record says failed, and why."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from rlx.errors import DataError
from rlx.record.files import write_atomic
from rlx.record.run import read_run
from rlx.sweep.state import COMPLETED, FAILED, now


def timeout_reason(seconds: float) -> str:
    """What is said of a job that took too long."""
    return f"timeout: it took more than {seconds:g} s (sweep.timeout)"


def mark_failed(directory: Path, reason: str) -> None:
    """Write into the record of a job that was killed or took too long what became of it; one that ended itself stays as it is."""
    try:
        if read_run(directory).status in (COMPLETED, FAILED):
            return
    except DataError:  # it was killed before it had a record
        return
    file = directory / "run.json"
    with contextlib.suppress(OSError):
        content = json.loads(file.read_bytes())
        content |= {"status": FAILED, "error": {"type": "Killed", "message": reason}, "ended": now()}
        write_atomic(file, json.dumps(content, indent=2) + "\n")
