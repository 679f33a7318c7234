"""The program of a pool process: it imports what a job needs once, then runs job after job until its sweep ends.

A job's output goes to its own log, whose end is shown if the job fails.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import queue
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rlx.errors import ExitCode
from rlx.garbage import search_as_usual, search_seldom
from rlx.sweep.kept import KeptModule, serve_kept

LOG = "job.log"
_SECONDS_BETWEEN = 0.5  # between two progress messages of one job


@contextlib.contextmanager
def output_into(file: Path) -> Iterator[None]:
    """Append everything written to standard output and error to a file."""
    saved = os.dup(1), os.dup(2)
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    try:
        for number in (1, 2):
            os.dup2(descriptor, number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), saved, strict=True):
            os.dup2(before, number)
            os.close(before)
        os.close(descriptor)


def tail(file: Path, lines: int = 12, size: int = 8192) -> str:
    """The last lines of a log."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - size))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


class Channel:
    """The worker's end of the pipes. grace: seconds to end in after the sweep is gone."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, grace: float = 30.0) -> None:
        self._outgoing = outgoing
        self._told = 0.0
        self.grace = grace
        self.inbox: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, args=(incoming,), daemon=True).start()

    def _listen(self, incoming: BinaryIO) -> None:
        """Pass messages on; when the sweep is gone, end the current job with a checkpoint, then this process."""
        try:
            while True:
                self.inbox.put(receive(incoming))
        except (EOFError, OSError):
            self.inbox.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(self.grace)
            os._exit(ExitCode.STOPPED)

    def send(self, message: Any) -> None:
        """Send a message to the sweep; if it is gone, the message is lost and the job continues to its checkpoint."""
        with contextlib.suppress(OSError):
            send_message(self._outgoing, message)

    def progress(self, step: int, figures: Mapping[str, float]) -> None:
        """Report the step that the job has reached, twice a second at most."""
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN:
            self._told = now
            self.send(JobProgress(step, dict(figures)))

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        """Report an evaluation and wait for the answer; returns whether the job must end."""
        self.send(Evaluated(step, dict(figures)))
        answer = self.inbox.get()
        if answer is None:
            self.inbox.put(None)  # for the loop over jobs
        return isinstance(answer, Answer) and answer.prune


def run_worker() -> None:
    """The main function of the process. Its standard input and output are the pipes to the sweep."""
    line, outgoing = socket.socket(fileno=os.dup(0)), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    _prefer_as_oom_victim()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    search_seldom()
    preloaded, sys.argv[1:] = sys.argv[1:], []
    for name in preloaded:
        with contextlib.suppress(Exception):  # if the task needs the module, the task's own import reports the error
            importlib.import_module(name)
    if not socket.recv_fds(line, 1, 1)[0]:  # with the sweep's lock, which this process holds from now on
        return  # the sweep ended before its plan was made
    incoming = line.makefile("rb")
    setup: Setup = receive(incoming)
    task = _prepared(setup)
    search_as_usual()
    channel = Channel(incoming, outgoing, setup.grace)
    channel.send(Ready())
    frozen = False
    with contextlib.suppress(KeyboardInterrupt):
        while (assignment := channel.inbox.get()) is not None:
            done = run_logged(task, assignment, channel)
            channel.send(done)
            gc.collect()
            if (
                done.state == "completed" and not frozen
            ):  # all modules of a job are imported by now: later garbage collections skip them
                gc.freeze()
                frozen = True


def _prepared(setup: Setup) -> Any:
    """The task, imported under the path and the log of its sweep."""
    log = os.open(setup.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    sys.path[:] = list(dict.fromkeys(setup.path))
    python_path = [*setup.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, python_path)))  # for the processes that jobs start
    serve_kept(setup.kept)
    module, _, name = setup.task.partition(":")
    return getattr(importlib.import_module(module), name)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run_logged(task: Any, assignment: Assignment, channel: Channel) -> Done:
    """Run one job with its output in its own log; returns how it ended, also if it raised."""
    directory = Path(assignment.directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with output_into(directory / LOG):
            try:
                done: Done = task(assignment, channel)
                return done
            except KeyboardInterrupt:
                return Done("interrupted", reason="stopped from outside", healthy=False)
            except BaseException as error:
                traceback.print_exc()
                return Done("failed", reason=f"{type(error).__name__}: {error}".rstrip(": "), healthy=False)
    except KeyboardInterrupt:
        return Done("interrupted", reason="stopped from outside", healthy=False)


def _prefer_as_oom_victim() -> None:
    """Make the kernel kill this process, when memory runs out, instead of the sweep, which can report it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


# The messages between a sweep and its workers: length-prefixed pickles through pipes.


_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Setup:
    """The first message to a worker.

    task: the `module:function` that runs a job. path: the Python path. log: the file for output outside jobs. grace: seconds for
    the worker to end after the sweep has died. kept: the user's modules, imported from the sweep's copies.
    """

    task: str
    path: tuple[str, ...]
    log: str
    grace: float
    kept: tuple[KeptModule, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """One job for a worker. directory: of the job, below the sweep's. content: what the task needs to run it."""

    name: str
    directory: str
    content: Any
    wants_answers: bool = False


@dataclass(frozen=True)
class Ready:
    """The worker has imported what it needs."""


@dataclass(frozen=True)
class JobProgress:
    """The step that a job has reached, and its newest figures."""

    step: int
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated:
    """A job was evaluated and waits for an `Answer`."""

    step: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """Whether the job must end because its search has pruned it."""

    prune: bool


@dataclass(frozen=True)
class Done:
    """A job has ended. state: completed, failed, interrupted or pruned; healthy: whether the worker can take another."""

    state: str
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    healthy: bool = True


def send_message(file: BinaryIO, message: Any) -> None:
    """Write one message."""
    data = pickle.dumps(message)
    file.write(_LENGTH.pack(len(data)) + data)
    file.flush()


def receive(file: BinaryIO) -> Any:
    """Wait for one message; EOFError when the other side is gone."""
    (length,) = _LENGTH.unpack(_exactly(file, _LENGTH.size))
    return pickle.loads(_exactly(file, length))


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


class Inbox:
    """Reads messages from a file descriptor without blocking on an incomplete one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        os.set_blocking(descriptor, False)

    def read(self) -> tuple[list[Any], bool]:
        """The complete messages that have arrived, and whether the other side is gone."""
        gone = False
        while True:
            try:
                piece = os.read(self._descriptor, 1 << 16)
            except BlockingIOError:
                break
            if not piece:
                gone = True
                break
            self._buffer += piece
        return list(self._messages()), gone

    def _messages(self) -> Iterator[Any]:
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            data = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield pickle.loads(data)
