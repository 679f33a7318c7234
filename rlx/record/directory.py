"""The directory of a run: created once, locked by one process; and whether that process is alive. Standard library only."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import platform
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlx.errors import ConfigError, TrainingError
from rlx.record.files import full_disk_explained, parse_lines, read_tail

_UNFINISHED = ".unfinished-"
_ABANDONED = 3600.0  # seconds after which an unfinished directory counts as abandoned; filling one takes far less


def new_directory(parent: Path, name: str) -> Path:
    """Create a directory `name`, or `name_2`, ... that did not exist before. Two concurrent callers get different ones."""
    with full_disk_explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        return _first_free(parent, name, Path.mkdir)


def filled_directory(parent: Path, name: str, fill: Callable[[Path], None]) -> Path:
    """Like new_directory, filled by `fill`. It appears only with its complete content, even if this process is killed."""
    with full_disk_explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        for abandoned in parent.glob(f"{_UNFINISHED}*"):  # left by killed processes
            with contextlib.suppress(OSError):
                if time.time() - abandoned.stat().st_mtime > _ABANDONED:
                    shutil.rmtree(abandoned, ignore_errors=True)
        unfinished = parent / f"{_UNFINISHED}{secrets.token_hex(8)}"
        unfinished.mkdir()
    try:
        fill(unfinished)
        with full_disk_explained(parent):
            return _first_free(parent, name, lambda directory: _rename(unfinished, directory))
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _first_free(parent: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The first of `name`, `name_2`, ... that `make` can create; `make` raises FileExistsError for one that exists."""
    for attempt in range(1, 10_000):
        directory = parent / (name if attempt == 1 else f"{name}_{attempt}")
        with contextlib.suppress(FileExistsError):
            make(directory)
            return directory
    raise TrainingError(f"{parent} holds thousands of directories {name}_*; choose another place with output_dir=DIR")


def _rename(source: Path, target: Path) -> None:
    """Rename a directory. Raises FileExistsError if a file or a non-empty directory has the new name."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(error.errno, error.strerror, str(target)) from error
        raise


def stamped_name(token: str) -> str:
    """`<date>_<time>_<token>`: the name of a run's or a sweep's directory."""
    return f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S}_{token}"


def utc_now() -> str:
    """The current time in UTC, in the format of records."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def truncate_lines(file: Path, step: int) -> None:
    """Truncate a file of lines after the last line of a step up to `step`, and remove a line that a kill cut short."""
    if not file.exists():
        return
    kept = 0
    with full_disk_explained(file), open(file, "r+b") as lines:
        for count, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                break
            rows = parse_lines(line, file, first_line=count)
            if rows and rows[0]["step"] > step:
                break
            kept += len(line)
        lines.truncate(kept)
        lines.flush()
        os.fsync(lines.fileno())


def last_step(file: Path) -> int:
    """The step of the last complete line; -1 if there is none."""
    tail = read_tail(file)
    return int(tail[-1]["step"]) if tail else -1


def hold(directory: Path) -> int | None:
    """Lock the directory for this process, so that two concurrent resumes do not mix; None if locks are not supported."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"{directory}: another process is writing this run; wait for it, or stop it first") from None
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def require_own_files(directory: Path) -> None:
    """Raise ConfigError if a directory to write to contains a link that leads out of it, a pipe or a device.

    Writing there would write elsewhere or block forever; such a directory was prepared by somebody else.
    """
    root = os.path.realpath(directory)
    for folder, folders, files in os.walk(root):
        for place in (os.path.join(folder, name) for name in (*folders, *files)):
            found, problem = os.path.realpath(place), ""
            if os.path.islink(place) and not Path(found).is_relative_to(root):
                problem = f"leads out of the directory, to {found}"
            elif os.path.exists(found) and not (os.path.isfile(found) or os.path.isdir(found)):
                problem = "is not an ordinary file"
            if problem:
                raise ConfigError(f"{place} {problem}, and resuming would write there; replace it by a file or a folder")


# The process that writes a record, and whether it is still alive. Process ids are reused, so an id is not enough. Standard
# library only.
#
# If the process cannot be inspected (another machine or container), its heartbeat decides: it touches its record every few
# seconds.


HEARTBEAT_SECONDS = 20.0
SILENT_SECONDS = 300.0  # without a heartbeat; cluster file systems may show a new time a minute late
_SILENT_BEFORE = 86_400.0  # for older records without a heartbeat, whose files are written once per step
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _birth(pid: int) -> str | None:
    """When process `pid` started, in this machine's own format; None if there is no such living process."""
    if _BOOT.exists():
        fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        return None if len(fields) < 20 or fields[0] in "ZX" else fields[19]
    try:
        told = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    state, _, start = told.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else start.strip()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def this_process() -> dict[str, Any]:
    """What a later reader needs to tell whether this process is still alive."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": _read(_BOOT),
        "namespace": _namespace(),
        "birth": _birth(os.getpid()) or "",
    }


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Whether the process of a record is alive; None if it cannot be inspected from here (another machine or container)."""
    if process.get("host") != platform.node():
        return None
    if process.get("boot", "") != _read(_BOOT):
        return False  # the machine was restarted since
    if process.get("namespace", "") != _namespace():
        return None
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    birth = _birth(pid)
    return birth is not None and birth == process.get("birth", "")


class Heartbeat:
    """Updates the time of a file every HEARTBEAT_SECONDS in its own thread, until `stop`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="rlx heartbeat").start()

    def stop(self) -> None:
        """Stop the heartbeat; may be called more than once."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # the file may have been moved
                os.utime(self._file)


def is_lost(process: Mapping[str, Any], file: Path) -> bool:
    """Whether the process of the record in `file` is dead, or cannot be inspected and has been silent for SILENT_SECONDS."""
    alive = is_alive(process)
    if alive is not None:
        return not alive
    beats = bool(process.get("heartbeat"))
    written = [place.stat().st_mtime for place in (file, file.with_name("metrics.jsonl")) if place.exists()]
    return time.time() - max(written, default=0.0) > (SILENT_SECONDS if beats else _SILENT_BEFORE)
