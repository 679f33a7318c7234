"""The directory of a sweep: found again or made once, held by one sweep at a time, with copies of the user's sources."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rlx.errors import ConfigError
from rlx.record.directory import new_directory, stamped_name
from rlx.record.files import full_disk_explained, link_latest, write_atomic
from rlx.record.process import is_alive
from rlx.record.sources import Source

PLAN = "sweep.json"
_LOCK = ".lock"


@dataclass
class Place:
    """A sweep's directory while this process holds it. before: its plan as it was left, None if it is new.

    lock: an open file; worker processes inherit it, so that the directory counts as held until the last of them is gone.
    """

    directory: Path
    before: dict[str, Any] | None
    lock: int | None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


def read_plan(directory: Path) -> dict[str, Any] | None:
    """The content of a sweep.json; None where there is none that can be read."""
    try:
        found = json.loads((directory / PLAN).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("jobs"), list) else None


def take(
    shelf: Path, *, digest: str, code: str, named: Path | None, fresh: bool, patience: float, say: Callable[[str], None]
) -> Place:
    """The directory for a plan: of the newest sweep with the same plan that nobody runs, else a new one.

    named: the place that the user chose. code: the hash of rlx. patience: seconds to wait for workers whose sweep was killed.
    """
    if named is not None:
        return _take_named(named, digest, code, fresh, patience, say)
    for directory in [] if fresh else sorted(shelf.glob(f"*_{digest[:8]}*"), reverse=True):
        before = read_plan(directory)
        if before is None or before.get("digest") != digest or before.get("code") != code:
            continue
        lock = _lock(directory, patience=_patience(before, patience), say=say)
        if lock is not None:
            return Place(directory, read_plan(directory), lock)
    directory = new_directory(shelf, stamped_name(digest[:8]))
    return Place(directory, None, _lock(directory, patience=0, say=say))


def _take_named(named: Path, digest: str, code: str, fresh: bool, patience: float, say: Callable[[str], None]) -> Place:
    with full_disk_explained(named):
        named.mkdir(parents=True, exist_ok=True)
    lock = _lock(named, patience=_patience(read_plan(named) or {}, patience), say=say)
    if lock is None:
        raise ConfigError(f"{named}: this sweep is running; wait for it, stop it, or choose another sweep.name")
    before = read_plan(named)
    if before is None and not any(entry.name != _LOCK for entry in named.iterdir()):
        return Place(named, None, lock)
    wrong = ""
    if before is None:
        wrong = "exists and holds no sweep"
    elif fresh or before.get("digest") != digest:
        wrong = f"holds another sweep ({' '.join(before.get('command', ()))})"
    elif before.get("code") != code:
        wrong = "was begun with another version of rlx, so its runs would not be comparable with new ones"
    if wrong:
        os.close(lock)
        raise ConfigError(f"{named} {wrong}; choose another sweep.name")
    return Place(named, before, lock)


def _patience(before: dict[str, Any], patience: float) -> float:
    """How long to wait for a directory: not at all for one whose sweep lives."""
    return 0.0 if is_alive(before.get("process", {})) else patience


def _lock(directory: Path, *, patience: float, say: Callable[[str], None]) -> int | None:
    """Hold the directory; None if another sweep, or a worker of one, holds it longer than `patience` seconds."""
    descriptor = os.open(directory / _LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        import fcntl
    except ImportError:
        return descriptor
    until = time.monotonic() + patience
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= until:
                os.close(descriptor)
                return None
        except OSError:  # a file system without locks
            return descriptor
        if not told:
            say(f"waiting for the workers of {directory}, whose sweep was killed, to write their checkpoints")
            told = True
        time.sleep(0.2)


def keep_sources(directory: Path, files: Iterable[Source]) -> Path:
    """Copy the user's own modules into the sweep: its jobs import these, so that an edit meanwhile mixes nothing."""
    for source in {source.copy: source for source in files}.values():
        copy = directory / source.copy
        if copy.exists():
            continue
        data = source.file.read_bytes()
        if hashlib.sha256(data).hexdigest() != source.sha256:
            raise ConfigError(f"{source.file} was edited while the sweep was planned; start it again")
        with full_disk_explained(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, data)
    return directory / "sources"


def name_latest(directory: Path) -> None:
    """`outputs/sweep/latest` names this sweep."""
    with contextlib.suppress(OSError):
        link_latest(directory, directory.parent / "latest")


def set_aside(directory: Path, *, keep: str) -> None:
    """Move what a failed attempt left out of the way, to where no list of runs looks; the file `keep` stays."""
    attic = new_directory(directory.parent / ".attempts", directory.name)
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name != "run.json"):  # without it, it is no run any more
        if entry.name != keep:
            entry.rename(attic / entry.name)
