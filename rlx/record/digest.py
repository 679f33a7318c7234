"""Digests of the files of lines that a run logs, so that a damaged file is refused instead of read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOGS = ("metrics.jsonl", "samples.jsonl", "answers.jsonl")
_BLOCK = 1 << 20


def digest_of(path: Path, size: int | None = None) -> str:
    """SHA-256 of a file, or of its first `size` bytes, as 64 hexadecimal digits. Raises OSError."""
    digest = hashlib.sha256()
    left = path.stat().st_size if size is None else size
    with path.open("rb") as file:
        while left > 0 and (block := file.read(min(_BLOCK, left))):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def digests_of_logs(run: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"bytes": size, "sha256": digest} of each of LOGS that lies in the directory of a run."""
    sizes = {name: (run / name).stat().st_size for name in LOGS if (run / name).is_file()}
    return {name: {"bytes": size, "sha256": digest_of(run / name, size)} for name, size in sizes.items()}


def damaged_log(run: Path, logs: Mapping[str, Mapping[str, Any]], *, may_be_longer: bool) -> str | None:
    """The first file that differs from its digest, and how, as the start of a sentence "... that were logged"; None if none does.

    logs: as returned by digests_of_logs. may_be_longer: lines that were appended later are allowed.
    """
    for name, log in logs.items():
        file = run / name
        try:
            size = file.stat().st_size if file.is_file() else 0  # a pipe is not a regular file
            if size < log["bytes"]:
                return f"{file} has {size} of the {log['bytes']} bytes" if size else f"{file} is gone, with the lines"
            if size > log["bytes"] and not may_be_longer:
                return f"{file} has {size} bytes, not the {log['bytes']} bytes"
            if digest_of(file, log["bytes"]) != log["sha256"]:
                return f"{file} does not hold the lines"
        except OSError as error:
            return f"{file} cannot be read ({error.strerror}), nor the lines"
    return None
