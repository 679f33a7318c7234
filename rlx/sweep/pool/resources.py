"""How many jobs fit on this machine, which GPUs each of them sees, and whether memory was too small for them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from rlx.errors import ConfigError
from rlx.parallel.launch import num_cores, require_few_processes

_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, found without starting CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return [str(index) for index in range(len(lines))] if listed.returncode == 0 else []


def num_workers(wanted: str | int, *, threads: int, ranks: int = 1) -> int:
    """How many jobs run at once. threads: CPU threads of each rank of a job; ranks: of each job.

    Raises ConfigError for far more than this machine has cores.
    """
    if isinstance(wanted, int):
        require_few_processes("sweep.workers", wanted)
        return max(1, wanted)
    return max(1, (len(gpus()) or num_cores() // max(1, threads)) // ranks)


def environments(size: int, ranks: int = 1) -> list[Mapping[str, str]]:
    """For each running job, the environment variables that give it `ranks` GPUs of its own; jobs share GPUs if there are too few.

    Raises ConfigError if there are fewer GPUs than one job needs.
    """
    found = gpus()
    if found and len(found) < ranks:
        raise ConfigError(f"sweep.ranks_per_job={ranks}, and there are {len(found)} GPUs here; a rank takes one of its own")
    sets = [",".join(found[first : first + ranks]) for first in range(0, len(found) - ranks + 1, ranks)]
    return [{"CUDA_VISIBLE_DEVICES": sets[slot % len(sets)]} for slot in range(size)] if sets else []


def memory_kills() -> int:
    """How many processes of this control group the kernel has killed because memory was full; 0 if that is unknown."""
    for file in _memory_events():
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return 0


def _memory_events() -> list[Path]:
    """The file with the kernel's counts: of this process's group, else of the container, if it is visible from inside."""
    own, second = "", ""
    with contextlib.suppress(OSError):
        for line in _MEMBERSHIP.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                second = path.strip("/")
            elif "memory" in controllers.split(","):
                own = path.strip("/")
    first = _GROUPS / "memory"
    return [_GROUPS / second / "memory.events", first / own / "memory.oom_control", first / "memory.oom_control"]
