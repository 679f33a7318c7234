"""A pool of warm processes on this machine. It starts, feeds, stops and replaces them; what runs when is the runner's affair."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from rlx.errors import TrainingError
from rlx.sweep.log import tail
from rlx.sweep.messages import Done, Hello, Inbox, Order, Ready, send
from rlx.sweep.resources import memory_kills

_FALSE_STARTS = 3  # workers in a row that die before they are ready: then no job will ever run
_START = "import sys; sys.path[:] = filter(None, sys.path); from rlx.sweep.worker import main; main()"


@dataclass(frozen=True)
class Event:
    """Something that a worker said about its job, or that it is gone. message: None when it died; reason: of its death."""

    slot: int
    order: Order | None
    message: Any
    reason: str = ""


@dataclass(eq=False)
class Worker:
    """One process. order: the job that it runs; since: when it got it; asked: when it was asked to stop."""

    slot: int
    process: subprocess.Popen[bytes]
    line: socket.socket
    inbox: Inbox
    order: Order | None = None
    since: float = 0.0
    asked: float | None = None
    is_ready: bool = False
    why: str = ""

    @cached_property
    def ear(self) -> BinaryIO:
        """Where it listens."""
        return self.line.makefile("wb")

    def tell(self, message: Any) -> None:
        """Say something to it; of its death `Pool.events` tells."""
        with contextlib.suppress(OSError):
            send(self.ear, message)


@dataclass
class Pool:
    """`size` processes that run `task`.

    path: the Python path of the jobs; None as long as it is not known: then the processes import `warm` and wait for `lead`.
    log: for what they say outside of jobs. lock: an open file that the workers hold too.
    """

    size: int
    task: str
    path: Sequence[str] | None = None
    log: Path = Path(os.devnull)
    grace: float = 60.0
    lock: int | None = None
    environments: Sequence[Mapping[str, str]] = ()
    warm: Sequence[str] = ()
    workers: list[Worker] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _false_starts: int = 0
    _memory_kills: int = field(default_factory=memory_kills)

    def start(self) -> None:
        """Begin to import in all processes at once."""
        for slot in range(self.size):
            self._start(slot)

    def lead(self, size: int, *, path: Sequence[str], log: Path, lock: int | None) -> None:
        """Tell processes that began before it was known what they are for; `size` of them stay."""
        self.size, self.path, self.log, self.lock = size, path, log, lock
        for worker in self.workers[size:]:
            self.remove(worker)
        for worker in self.workers:
            self._greet(worker)
        for slot in range(len(self.workers), size):
            self._start(slot)

    def _start(self, slot: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        known = sys.path if self.path is None else self.path
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[2]), *filter(None, known)])
        environment |= self.environments[slot % len(self.environments)] if self.environments else {}
        ours, theirs = socket.socketpair()
        with theirs, open(self.log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, *self.warm],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks its workers one by one
            )
        assert process.stdout is not None
        worker = Worker(slot, process, ours, Inbox(process.stdout.fileno()))
        self.workers.append(worker)
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)
        if self.path is not None:
            self._greet(worker)

    def _greet(self, worker: Worker) -> None:
        assert self.path is not None
        with contextlib.suppress(OSError):
            socket.send_fds(worker.line, [b"+"], [] if self.lock is None else [self.lock])
        worker.tell(Hello(self.task, tuple(self.path), os.fspath(self.log), self.grace))

    @property
    def idle(self) -> list[Worker]:
        """Processes that wait for a job."""
        return [worker for worker in self.workers if worker.is_ready and worker.order is None and worker.asked is None]

    @property
    def busy(self) -> list[Worker]:
        """Processes that run a job."""
        return [worker for worker in self.workers if worker.order is not None]

    def give(self, worker: Worker, order: Order) -> None:
        """Hand a job to an idle process."""
        worker.order, worker.since = order, time.monotonic()
        worker.tell(order)

    def answer(self, slot: int, message: Any) -> None:
        """Answer the job in a slot."""
        for worker in self.workers:
            if worker.slot == slot:
                worker.tell(message)

    def events(self, timeout: float) -> Iterator[Event]:
        """What has happened; waits `timeout` seconds for something to happen."""
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            messages, gone = worker.inbox.read()
            for message in messages:
                yield from self._heard(worker, message)
            if gone:
                yield from self._died(worker)
        for worker in list(self.workers):  # a child of a dead worker may hold its pipe open
            if worker.process.poll() is not None:
                for message in worker.inbox.read()[0]:
                    yield from self._heard(worker, message)
                yield from self._died(worker)

    def _heard(self, worker: Worker, message: Any) -> Iterator[Event]:
        if isinstance(message, Ready):
            worker.is_ready, self._false_starts = True, 0
            return
        order = worker.order
        if isinstance(message, Done):
            worker.order = None
            yield Event(worker.slot, order, message, worker.why)
            if not message.healthy or worker.asked is not None:
                self._replace(worker)
        else:
            yield Event(worker.slot, order, message)

    def _died(self, worker: Worker) -> Iterator[Event]:
        if worker not in self.workers:
            return
        code = worker.process.wait()
        order, worker.order = worker.order, None
        reason = worker.why or self._cause(code)
        if not worker.is_ready:
            self._false_starts += 1
        self._replace(worker)
        if order is not None:
            yield Event(worker.slot, order, None, reason)

    def _cause(self, code: int) -> str:
        kills = memory_kills()
        ran_out, self._memory_kills = kills > self._memory_kills, kills
        if code >= 0:
            return f"the process of the job ended itself with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if ran_out:
            return f"out of memory: the kernel killed the job ({name})"
        return f"killed by {name}" + (", perhaps because the memory was full" if -code == signal.SIGKILL else "")

    def _replace(self, worker: Worker) -> None:
        """A new process in the place of one that is not to be trusted any more."""
        self.remove(worker)
        if self._false_starts >= _FALSE_STARTS:
            raise TrainingError(f"the worker processes of the sweep cannot start; the end of {self.log}:\n{tail(self.log)}")
        self._start(worker.slot)

    def remove(self, worker: Worker) -> None:
        """End a process and all that it started."""
        if worker in self.workers:
            self.workers.remove(worker)
        assert worker.process.stdout is not None
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.process.stdout)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        with contextlib.suppress(OSError):
            worker.ear.close()
        worker.line.close()
        worker.process.stdout.close()

    def ask_to_stop(self, worker: Worker, why: str) -> None:
        """Ask a job to write a checkpoint and end."""
        if worker.asked is None:
            worker.asked, worker.why = time.monotonic(), why
            with contextlib.suppress(ProcessLookupError):
                worker.process.send_signal(signal.SIGTERM)

    def kill(self, worker: Worker) -> None:
        """End a job at once; `events` tells that it died."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End every process."""
        for worker in list(self.workers):
            self.remove(worker)
        self._selector.close()
