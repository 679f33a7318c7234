"""Finds or creates the directory of a sweep; one sweep at a time has it locked."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError
from rlx.record.directory import filled_directory, is_alive, new_directory, stamped_name
from rlx.record.files import full_disk_explained, link_latest
from rlx.record.run import read_plan

_LOCK = ".lock"


@dataclass
class SweepDirectory:
    """A sweep's directory, locked by this process.

    previous_plan: the content of its sweep.json from an earlier start, None if it is new. lock: a file descriptor, which worker
    processes also keep open, so that the directory stays locked until the last of them has ended.
    """

    directory: Path
    previous_plan: dict[str, Any] | None
    lock: int | None

    def close(self) -> None:
        """Release the lock."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def claim_directory(
    shelf: Path, *, digest: str, code: str, named: Path | None, fresh: bool, patience: float, begin: Callable[[Path], None]
) -> SweepDirectory:
    """Lock a directory for a plan: that of the newest sweep with the same plan that is not running, else a new one.

    named: the directory that the user chose. code: the hash of rlx's code. patience: seconds to wait for workers whose sweep was
    killed. begin: writes the first sweep.json of a new sweep. The directory appears together with that file, so the same command
    can resume the sweep whenever this process is killed.

    Raises ConfigError if the named directory is in use or holds something else.
    """
    if named is not None:
        return _claim_named(named, _patient_lock(named, patience), digest, code, fresh, begin)
    for directory in [] if fresh else sorted(shelf.glob(f"*_{digest[:8]}*"), reverse=True):
        before = read_plan(directory)
        if before is None or before.get("digest") != digest or before.get("code") != code:
            continue
        lock = _patient_lock(directory, patience)
        if lock is not None:
            return SweepDirectory(directory, read_plan(directory), lock)
    locks: list[int | None] = []

    def fill(directory: Path) -> None:
        locks.append(_lock(directory, patience=0))
        begin(directory)

    return SweepDirectory(filled_directory(shelf, stamped_name(digest[:8]), fill), None, locks[0])


def _claim_named(
    named: Path, lock: int | None, digest: str, code: str, fresh: bool, begin: Callable[[Path], None]
) -> SweepDirectory:
    if lock is None:
        raise ConfigError(f"{named}: this sweep is running; wait for it, stop it, or choose another sweep.name")
    before = read_plan(named)
    if before is None and not any(entry.name != _LOCK for entry in named.iterdir()):
        begin(named)
        return SweepDirectory(named, None, lock)
    wrong = ""
    if before is None:
        wrong = "exists but holds no sweep"
    elif not fresh and before.get("code") != code:
        wrong = (
            "was begun with another version of the code that numbers come from, so its runs are not comparable with new ones; "
            f"this begins a new sweep: {_anew(before)}"
        )
    elif fresh or before.get("digest") != digest:
        begun = shlex.join(map(str, before.get("command", ())))
        other = "already" if fresh else "of another plan, or with other code of yours"
        wrong = f"holds a sweep {other} ({begun}); go on with that one: {shlex.join(['rlx', '-m', f'resume={named}'])}"
    if wrong:
        os.close(lock)
        raise ConfigError(f"{named} {wrong}; or choose another sweep.name")
    return SweepDirectory(named, before, lock)


def _anew(before: dict[str, Any]) -> str:
    """The command of a sweep, for a new directory."""
    return shlex.join(
        str(word) for word in before.get("command", ()) if not str(word).startswith(("sweep.name=", "+sweep.name="))
    )


def _patient_lock(directory: Path, patience: float) -> int | None:
    """Like _lock, for a directory that may be created. If its sweep is running, do not wait for its workers."""
    with full_disk_explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
    lives = is_alive((read_plan(directory) or {}).get("process", {}))
    return _lock(directory, patience=0.0 if lives else patience)


def _lock(directory: Path, *, patience: float) -> int | None:
    """Lock the directory; None if another sweep, or one of its workers, holds the lock for longer than `patience` seconds."""
    descriptor = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        import fcntl
    except ImportError:
        return descriptor
    deadline = time.monotonic() + patience
    is_notified = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
        except OSError:  # a file system without locks
            return descriptor
        if not is_notified:
            text = f"waiting for the workers of {directory}, whose sweep was killed, to write their checkpoints"
            print(text, file=sys.stderr, flush=True)
            is_notified = True
        time.sleep(0.2)


def name_latest(directory: Path) -> None:
    """Make `outputs/sweep/latest` point to this sweep."""
    with contextlib.suppress(OSError):
        link_latest(directory, directory.parent / "latest")


def set_aside(directory: Path, *, keep: str) -> None:
    """Move the files of a failed attempt to a hidden folder next to the sweeps, which is not searched; the file `keep` stays."""
    attic = new_directory(directory.parent / ".attempts", directory.name)
    for entry in sorted(
        directory.iterdir(), key=lambda entry: entry.name != "run.json"
    ):  # first: without it the directory holds no run
        if entry.name != keep:
            entry.rename(attic / entry.name)
