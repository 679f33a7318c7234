"""A pool of worker processes on this machine: it starts them, gives them jobs, stops and replaces them.

The processes import what every job needs while the sweep is still being planned. `runner` decides which job runs when.
"""

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
from rlx.sweep.kept import KeptModule
from rlx.sweep.plan.settings import RandomSettings, Settings
from rlx.sweep.plan.space import Space
from rlx.sweep.pool.resources import environments, memory_kills, num_workers
from rlx.sweep.pool.worker import Assignment, Done, Inbox, Ready, Setup, send_message, tail

_START = "import sys; sys.path[:] = filter(None, sys.path); from rlx.sweep.pool.worker import run_worker; run_worker()"
_MOST_FAILED_STARTS = 3  # after this many workers in a row died before they were ready, no job will ever run
# Imported by every worker while the sweep is planned.
_PRELOADED = (
    *("rlx.sweep.job", "transformers.modeling_utils", "transformers.models.auto.modeling_auto"),
    "rlx.rollout.transformers",
)


@dataclass(eq=False)
class Worker:
    """One process of the pool, as the sweep sees it.

    slot: its place in the pool; connection: the socket of its standard input. assignment: the job that it runs; assigned_at: when
    it got the job. stop_requested_at: when it was asked to stop; stop_reason: why.
    """

    slot: int
    process: subprocess.Popen[bytes]
    connection: socket.socket
    inbox: Inbox
    assignment: Assignment | None = None
    assigned_at: float = 0.0
    stop_requested_at: float | None = None
    is_ready: bool = False
    stop_reason: str = ""

    @classmethod
    def start(
        cls, slot: int, *, path: Sequence[str], log: Path, variables: Mapping[str, str], preloaded: Sequence[str]
    ) -> Worker:
        """Start a new process, which imports the modules `preloaded` and waits.

        path: the Python path. log: the file for its output outside jobs. variables: of its environment.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).resolve().parents[3]), *filter(None, path)])
        ours, theirs = socket.socketpair()
        with theirs, open(log, "ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, *preloaded],
                stdin=theirs.fileno(),
                stdout=subprocess.PIPE,
                stderr=out,
                env=environment | dict(variables),
                start_new_session=True,  # Ctrl-C reaches only the sweep, which asks its workers one by one
            )
        assert process.stdout is not None
        return cls(slot, process, ours, Inbox(process.stdout.fileno()))

    @property
    def output(self) -> IO[bytes]:
        """The pipe from which its messages are read."""
        assert self.process.stdout is not None
        return self.process.stdout

    @cached_property
    def input(self) -> BinaryIO:
        """The stream to which its messages are written."""
        return self.connection.makefile("wb")

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a job."""
        return self.is_ready and self.assignment is None and self.stop_requested_at is None

    def set_up(self, setup: Setup, lock: int | None) -> None:
        """Tell it what it will run. lock: a file descriptor that it must also keep open."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.connection, [b"+"], [] if lock is None else [lock])
        self.send(setup)

    def send(self, message: Any) -> None:
        """Send a message; if the process is dead, `Pool.events` reports that."""
        with contextlib.suppress(OSError):
            send_message(self.input, message)

    def assign(self, assignment: Assignment) -> None:
        """Give the process a job."""
        self.assignment, self.assigned_at = assignment, time.monotonic()
        self.send(assignment)

    def ask_to_stop(self, reason: str) -> None:
        """Ask its job to write a checkpoint and end."""
        if self.stop_requested_at is None:
            self.stop_requested_at, self.stop_reason = time.monotonic(), reason
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and all processes that it started; `Pool.events` reports its death."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Kill it, wait for its end and close the pipes."""
        self.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            self.input.close()
        self.connection.close()
        self.output.close()


@dataclass(frozen=True)
class Event:
    """A worker's message about its job, or its death. message: None if it died; reason: why it was stopped or died."""

    slot: int
    assignment: Assignment | None
    message: Any
    reason: str = ""


@dataclass
class Pool:
    """`size` processes that run `task`, a `module:function`.

    path: the Python path of the jobs; None while unknown: then the processes import `preloaded` and wait for `set_up`. log: the
    file for their output outside jobs. lock: a file descriptor that the workers also keep open. kept: the user's modules,
    imported from the sweep's copies.
    """

    size: int
    task: str
    path: Sequence[str] | None = None
    log: Path = Path(os.devnull)
    grace: float = 60.0
    lock: int | None = None
    environments: Sequence[Mapping[str, str]] = ()
    preloaded: Sequence[str] = ()
    kept: Sequence[KeptModule] = ()
    workers: list[Worker] = field(default_factory=list)
    _selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    _failed_starts: int = 0
    _memory_kills: int = field(default_factory=memory_kills)

    def start(self) -> None:
        """Start all processes; each begins to import."""
        for slot in range(self.size):
            self._start(slot)

    def set_up(self, size: int, *, path: Sequence[str], log: Path, lock: int | None, kept: Sequence[KeptModule] = ()) -> None:
        """Set up processes that were started before the plan was made; `size` of them are kept."""
        self.size, self.path, self.log, self.lock, self.kept = size, path, log, lock, kept
        for worker in self.workers[size:]:
            self.remove(worker)
        for worker in self.workers:
            self._set_up(worker)
        for slot in range(len(self.workers), size):
            self._start(slot)

    def _start(self, slot: int) -> None:
        variables = self.environments[slot % len(self.environments)] if self.environments else {}
        path = sys.path if self.path is None else self.path
        worker = Worker.start(slot, path=path, log=self.log, variables=variables, preloaded=self.preloaded)
        self.workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        if self.path is not None:
            self._set_up(worker)

    def _set_up(self, worker: Worker) -> None:
        worker.set_up(Setup(self.task, tuple(self.path or ()), os.fspath(self.log), self.grace, tuple(self.kept)), self.lock)

    @property
    def idle(self) -> list[Worker]:
        """Processes that wait for a job."""
        return [worker for worker in self.workers if worker.is_idle]

    @property
    def busy(self) -> list[Worker]:
        """Processes that run a job."""
        return [worker for worker in self.workers if worker.assignment is not None]

    def answer(self, slot: int, message: Any) -> None:
        """Send a message to the job in a slot."""
        for worker in self.workers:
            if worker.slot == slot:
                worker.send(message)

    def events(self, timeout: float) -> Iterator[Event]:
        """What the workers reported; waits at most `timeout` seconds for a report."""
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            messages, gone = worker.inbox.read()
            for message in messages:
                yield from self._receive(worker, message)
            if gone:
                yield from self._report_death(worker)
        for worker in list(self.workers):  # a child of a dead worker may hold its pipe open
            if worker.process.poll() is not None:
                for message in worker.inbox.read()[0]:
                    yield from self._receive(worker, message)
                yield from self._report_death(worker)

    def _receive(self, worker: Worker, message: Any) -> Iterator[Event]:
        if isinstance(message, Ready):
            worker.is_ready, self._failed_starts = True, 0
            return
        assignment = worker.assignment
        if isinstance(message, Done):
            worker.assignment = None
            yield Event(worker.slot, assignment, message, worker.stop_reason)
            if not message.healthy or worker.stop_requested_at is not None:
                self._replace(worker)
        else:
            yield Event(worker.slot, assignment, message)

    def _report_death(self, worker: Worker) -> Iterator[Event]:
        if worker not in self.workers:
            return
        code = worker.process.wait()
        assignment, worker.assignment = worker.assignment, None
        reason = worker.stop_reason or self._cause(code)
        if not worker.is_ready:
            self._failed_starts += 1
        self._replace(worker, died_of=reason)
        if assignment is not None:
            yield Event(worker.slot, assignment, None, reason)

    def _cause(self, code: int) -> str:
        kills = memory_kills()
        ran_out, self._memory_kills = kills > self._memory_kills, kills
        if code >= 0:
            return f"the process of the job ended itself with code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if ran_out:
            return f"out of memory: the kernel killed the job ({name})"
        return f"killed by {name}" + (", perhaps because the memory was full" if -code == signal.SIGKILL else "")

    def _replace(self, worker: Worker, *, died_of: str = "") -> None:
        """Replace a process that died or whose state is unknown. died_of: the cause, for the message."""
        self.remove(worker)
        if self._failed_starts >= _MOST_FAILED_STARTS:
            logged = tail(self.log).splitlines()
            raise TrainingError(
                f"{self._failed_starts} processes of the sweep in a row ended before they could run a job (the last "
                f"one: {died_of or 'unknown'}); lower sweep.workers where memory is short, then give the command again"
                + (f"; the end of {self.log}:" if logged else ""),
                *logged,
            )
        self._start(worker.slot)

    def remove(self, worker: Worker) -> None:
        """Kill a process and everything that it started."""
        if worker in self.workers:
            self.workers.remove(worker)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(worker.output)
        worker.close()

    def close(self) -> None:
        """Kill every process."""
        for worker in list(self.workers):
            self.remove(worker)
        self._selector.close()


def start_pool(task: str, settings: Settings, space: Space, *, default_threads: int | None) -> Pool:
    """Start processes that import what every job needs, before the plan is made; the plan decides how many are kept."""
    fixed = [text.partition("=")[2] for text in space.fixed if text.startswith("threads=")]
    threads = int(fixed[-1]) if fixed and fixed[-1].isdigit() else default_threads or 1
    points = math.prod(max(1, len(axis.points)) for axis in space.axes)
    most = points * len(space.seeds) * (settings.trials if isinstance(settings, RandomSettings) else 1)
    size = min(num_workers(settings.workers, threads=threads, ranks=settings.ranks_per_job), most)
    pool = Pool(size, task, grace=settings.grace, environments=environments(size, settings.ranks_per_job), preloaded=_PRELOADED)
    pool.start()
    return pool


def preload_comparison(settings: Settings) -> None:
    """Import in the background what the comparison at the end needs."""

    def imported() -> None:
        with contextlib.suppress(Exception):  # the import at the end reports it
            for name in ("rlx.comparison.comparison", "rlx.report.comparison"):
                importlib.import_module(name)

    if settings.compare and settings.method != "optuna":
        threading.Thread(target=imported, daemon=True).start()
