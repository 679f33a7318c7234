"""One process of the pool as the sweep sees it: started before it is known what for, greeted, told what to do, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO

from rlx.sweep.messages import Hello, Inbox, Order, send

_START = "import sys; sys.path[:] = filter(None, sys.path); from rlx.sweep.worker import main; main()"


@dataclass(eq=False)
class Worker:
    """One process. order: the job that it runs; since: when it got it; asked: when it was asked to stop, and why."""

    slot: int
    process: subprocess.Popen[bytes]
    line: socket.socket
    inbox: Inbox
    order: Order | None = None
    since: float = 0.0
    asked: float | None = None
    is_ready: bool = False
    why: str = ""

    @classmethod
    def start(cls, slot: int, *, path: Sequence[str], log: Path, variables: Mapping[str, str], warm: Sequence[str]) -> Worker:
        """A new process, which imports `warm`. path: of Python; log: for what it says outside of jobs; variables: of its own."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, path)])
        ours, theirs = socket.socketpair()
        with theirs, open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, *warm],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=out,
                env=environment | dict(variables),
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks its workers one by one
            )
        assert process.stdout is not None
        return cls(slot, process, ours, Inbox(process.stdout.fileno()))

    @property
    def mouth(self) -> IO[bytes]:
        """Where it speaks."""
        assert self.process.stdout is not None
        return self.process.stdout

    @cached_property
    def ear(self) -> BinaryIO:
        """Where it listens."""
        return self.line.makefile("wb")

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a job."""
        return self.is_ready and self.order is None and self.asked is None

    def greet(self, hello: Hello, lock: int | None) -> None:
        """Tell it what it is for. lock: an open file that it shall hold too."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.line, [b"+"], [] if lock is None else [lock])
        self.tell(hello)

    def tell(self, message: Any) -> None:
        """Say something to it; of its death `Pool.events` tells."""
        with contextlib.suppress(OSError):
            send(self.ear, message)

    def give(self, order: Order) -> None:
        """Hand it a job."""
        self.order, self.since = order, time.monotonic()
        self.tell(order)

    def ask_to_stop(self, why: str) -> None:
        """Ask its job to write a checkpoint and end."""
        if self.asked is None:
            self.asked, self.why = time.monotonic(), why
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, and all that it started; `Pool.events` tells that it died."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def bury(self) -> None:
        """End it, and close what led to it."""
        self.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.ear.close()
        self.line.close()
        self.mouth.close()
