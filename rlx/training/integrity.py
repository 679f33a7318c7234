"""Digests that are written with a checkpoint and verified before it is used.

They cover the files of the checkpoint, and the run's logged lines and config at that moment: a resumed run must not continue
from weights, trainer state or metrics that differ from those that were written.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rlx.errors import DataError

SEALED = "sealed"
_LOGS = ("metrics.jsonl", "samples.jsonl", "answers.jsonl")
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


def seal(values: dict[str, Any], checkpoint: Path, run: Path) -> dict[str, Any]:
    """Add digests to the plain values of a trainer's state.

    values: the values to which the digests are added. checkpoint: the directory, with all other files already written. run: the
    directory of the record.
    """
    files = {file.name: digest_of(file) for file in sorted(checkpoint.iterdir())}
    logs = {}
    for name in _LOGS:
        if (run / name).is_file():
            size = (run / name).stat().st_size
            logs[name] = {"bytes": size, "sha256": digest_of(run / name, size)}
    sealed: dict[str, Any] = {**values, SEALED: {"files": files, "logs": logs}}
    sealed[SEALED]["values"] = _digest_of_values(sealed)
    return sealed


def verify_checkpoint(directory: Path, values: dict[str, Any]) -> None:
    """Raise DataError if a file of the checkpoint differs from what was written.

    directory: the checkpoint, `step_<n>`. values: its trainer state as returned by `seal`; older versions of rlx wrote no
    digests.
    """
    step = directory.name.removeprefix("step_")
    if step.isdigit() and values.get("step") != int(step):
        raise _damaged(directory, f"its trainer's state is of step {values.get('step')}")
    seals = values.get(SEALED)
    if seals is None:
        return
    if not isinstance(seals, dict) or seals.get("values") != _digest_of_values(values):
        raise _damaged(directory, "its trainer's state was changed")
    for name, digest in seals["files"].items():
        try:
            found = digest_of(directory / name)
        except OSError as error:
            raise _damaged(directory, f"{name} cannot be read ({error.strerror})") from error
        if found != digest:
            raise _damaged(directory, f"{name} is not what was written")


def verify_logs(run: Path, values: dict[str, Any]) -> None:
    """Raise DataError if lines logged before the checkpoint are missing or changed."""
    for name, log in (values.get(SEALED) or {}).get("logs", {}).items():
        file = run / name
        size = file.stat().st_size if file.is_file() else 0  # a pipe is not a regular file
        if size < log["bytes"]:
            wrong = f"has {size} of the {log['bytes']} bytes" if size else "is gone, with the lines"
        elif digest_of(file, log["bytes"]) != log["sha256"]:
            wrong = "does not hold the lines"
        else:
            continue
        raise DataError(
            f"{file} {wrong} that were logged before the checkpoint of step {values['step']}, so a resumed run would have a "
            f"record with a hole; put the file back, or move {run} away and give its command again"
        )


def _digest_of_values(values: dict[str, Any]) -> str:
    seals = {name: value for name, value in values[SEALED].items() if name != "values"}
    text = json.dumps({**values, SEALED: seals}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _damaged(directory: Path, wrong: str) -> DataError:
    return DataError(
        f"the checkpoint {directory} is damaged: {wrong}; put the file back, or remove this directory to use an earlier "
        "checkpoint, if there is one"
    )
