"""A program that runs a command until its own standard input closes, which happens when the process that started it is gone.

It does not import rlx, and is started by its path: `python watchdog.py COMMAND...`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl
_GRACE = 10.0  # seconds between SIGTERM and SIGKILL


def main(command: Sequence[str]) -> int:
    """Run the command and return its exit code. All processes of its group end with it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_watchdog)
    threading.Thread(target=_end_with_input, args=(process,), daemon=True).start()
    code = process.wait()
    _signal(process, signal.SIGKILL)
    return code


def _end_with_input(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _signal(process, signal.SIGTERM)
    time.sleep(_GRACE)
    _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with suppress(ProcessLookupError):  # the group has ended
        os.killpg(process.pid, number)


def _die_with_watchdog() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
