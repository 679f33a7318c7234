"""A pool of warm processes on this machine. It starts, feeds, stops and replaces them; what runs when is the runner's affair."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, BinaryIO

from rlx.errors import TrainingError
from rlx.sweep.plan.settings import RandomSettings, Settings
from rlx.sweep.plan.space import Space
from rlx.sweep.pool.messages import Done, Hello, Inbox, Order, Ready, send
from rlx.sweep.pool.resources import environments, memory_kills, num_workers
from rlx.sweep.pool.worker import tail

# One process of the pool as the sweep sees it: started before it is known what for, greeted, told what to do, ended.

_START = "import sys; sys.path[:] = filter(None, sys.path); from rlx.sweep.pool.worker import main; main()"


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
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[3]), *filter(None, path)])
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


# A pool of warm processes on this machine. It starts, feeds, stops and replaces them; what runs when is the runner's affair.

_FALSE_STARTS = 3  # workers in a row that die before they are ready: then no job will ever run


@dataclass(frozen=True)
class Event:
    """Something that a worker said about its job, or that it is gone. message: None when it died; reason: of its death."""

    slot: int
    order: Order | None
    message: Any
    reason: str = ""


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
        variables = self.environments[slot % len(self.environments)] if self.environments else {}
        path = sys.path if self.path is None else self.path
        worker = Worker.start(slot, path=path, log=self.log, variables=variables, warm=self.warm)
        self.workers.append(worker)
        self._selector.register(worker.mouth, selectors.EVENT_READ, worker)
        if self.path is not None:
            self._greet(worker)

    def _greet(self, worker: Worker) -> None:
        worker.greet(Hello(self.task, tuple(self.path or ()), os.fspath(self.log), self.grace), self.lock)

    @property
    def idle(self) -> list[Worker]:
        """Processes that wait for a job."""
        return [worker for worker in self.workers if worker.is_idle]

    @property
    def busy(self) -> list[Worker]:
        """Processes that run a job."""
        return [worker for worker in self.workers if worker.order is not None]

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
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.mouth)
        worker.bury()

    def close(self) -> None:
        """End every process."""
        for worker in list(self.workers):
            self.remove(worker)
        self._selector.close()


# What is imported while a sweep is planned and run, so that nobody waits for it later.

_WARM = ("rlx.sweep.job", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "rlx.rollout.transformers")


def warming_pool(task: str, settings: Settings, space: Space, *, default_threads: int | None) -> Pool:
    """Processes that import what every job needs while the plan is made; how many of them stay is known after it."""
    fixed = [text.partition("=")[2] for text in space.fixed if text.startswith("threads=")]
    threads = int(fixed[-1]) if fixed and fixed[-1].isdigit() else default_threads or 1
    points = math.prod(max(1, len(axis.points)) for axis in space.axes)
    most = points * len(space.seeds) * (settings.trials if isinstance(settings, RandomSettings) else 1)
    size = min(num_workers(settings.workers, threads=threads), most)
    pool = Pool(size, task, grace=settings.grace, environments=environments(size), warm=_WARM)
    pool.start()
    return pool


def warm_comparison(settings: Settings) -> None:
    """Import meanwhile what the comparison at the end needs."""

    def imported() -> None:
        with contextlib.suppress(Exception):  # said when it is needed
            for name in ("rlx.comparison.comparison", "rlx.report.comparison"):
                importlib.import_module(name)

    if settings.compare and settings.method != "optuna":
        threading.Thread(target=imported, daemon=True).start()
