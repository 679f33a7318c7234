"""The process that writes a record, and whether it is still alive. A process id alone is reused. Standard library only."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

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


def is_alive(process: dict[str, Any]) -> bool | None:
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
