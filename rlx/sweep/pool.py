"""A pool of warm processes on this machine. It starts, feeds, stops and replaces them; what runs when is the runner's affair."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.errors import TrainingError
from rlx.sweep.log import tail
from rlx.sweep.messages import Done, Hello, Order, Ready
from rlx.sweep.process import Worker
from rlx.sweep.resources import memory_kills

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
