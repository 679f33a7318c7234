"""What a job prints: into a file of its own, of which the end is shown if the job fails."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

LOG = "job.log"


@contextlib.contextmanager
def output_into(file: Path) -> Iterator[None]:
    """Append everything that is written to standard output and error to a file."""
    saved = os.dup(1), os.dup(2)
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(descriptor)


def tail(file: Path, lines: int = 12, size: int = 8192) -> str:
    """The last lines of a log."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - size))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])
