"""The process that writes a record, and whether it is still alive. A process id alone is reused. Standard library only.

Where the process cannot be seen (another machine or container), its heartbeat decides: it touches its record every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEARTBEAT_SECONDS = 20.0
SILENT_SECONDS = 300.0  # without a heartbeat; file systems of clusters show a new time a minute late
_SILENT_BEFORE = 86_400.0  # for records of before there was one, whose files are written once a step
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _birth(pid: int) -> str | None:
    """When process `pid` started, in whatever form this machine tells it; None if there is no such living process."""
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
    """What a later reader needs in order to tell whether this process still lives."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "boot": _read(_BOOT),
        "namespace": _namespace(),
        "birth": _birth(os.getpid()) or "",
    }


def is_alive(process: Mapping[str, Any]) -> bool | None:
    """Whether the process of a record still lives; None if it cannot be seen from here (another machine or container)."""
    if process.get("host") != platform.node():
        return None
    if process.get("boot", "") != _read(_BOOT):
        return False  # the machine was started again since
    if process.get("namespace", "") != _namespace():
        return None
    pid = process.get("pid")
    if not isinstance(pid, int) or pid <= 0:
        return False
    birth = _birth(pid)
    return birth is not None and birth == process.get("birth", "")


class Heartbeat:
    """Sets the time of a file every HEARTBEAT_SECONDS, from a thread of its own, until `stop`."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stopped = threading.Event()
        threading.Thread(target=self._beat, daemon=True, name="rlx heartbeat").start()

    def stop(self) -> None:
        """No further heartbeat; more than once is fine."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # it may have been moved aside
                os.utime(self._file)


def is_lost(process: Mapping[str, Any], file: Path) -> bool:
    """Whether the process of the record in `file` is dead, or cannot be seen and has been silent for SILENT_SECONDS."""
    alive = is_alive(process)
    if alive is not None:
        return not alive
    beats = bool(process.get("heartbeat"))
    written = [place.stat().st_mtime for place in (file, file.with_name("metrics.jsonl")) if place.exists()]
    return time.time() - max(written, default=0.0) > (SILENT_SECONDS if beats else _SILENT_BEFORE)
