"""One process of the pool: imports what a job needs once, then runs job after job until its sweep is gone."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rlx.sweep.pool.messages import Answer, Done, Evaluated, Hello, Order, Progress, Ready, receive, send

# What a job prints: into a file of its own, of which the end is shown if the job fails.

LOG = "job.log"


@contextlib.contextmanager
def output_into(file: Path) -> Iterator[None]:
    """Append everything that is written to standard output and error to a file."""
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


# One process of the pool: imports what a job needs once, then runs job after job until its sweep is gone.

_SECONDS_BETWEEN = 0.5  # of two messages about the progress of one job


class Channel:
    """The worker's end of the pipes."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO, grace: float = 30.0) -> None:
        self._outgoing = outgoing
        self._told = 0.0
        self.grace = grace
        self.inbox: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._listen, args=(incoming,), daemon=True).start()

    def _listen(self, incoming: BinaryIO) -> None:
        """Pass messages on; when the sweep is gone, end the job at hand with a checkpoint, then this process."""
        try:
            while True:
                self.inbox.put(receive(incoming))
        except (EOFError, OSError):
            self.inbox.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(self.grace)
            os._exit(75)

    def say(self, message: Any) -> None:
        """Tell the sweep; one that is gone cannot hear it, and the job goes on to its checkpoint."""
        with contextlib.suppress(OSError):
            send(self._outgoing, message)

    def progress(self, step: int, figures: Mapping[str, float], num_steps: int | None = None) -> None:
        """Tell where the job stands, twice a second at most."""
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN:
            self._told = now
            self.say(Progress(step, dict(figures), num_steps))

    def shall_stop(self, step: int, figures: Mapping[str, float]) -> bool:
        """Report an evaluation and wait for the sweep's word on it."""
        self.say(Evaluated(step, dict(figures)))
        answer = self.inbox.get()
        if answer is None:
            self.inbox.put(None)  # for the loop over jobs
        return isinstance(answer, Answer) and answer.prune


def main() -> None:
    """What the process runs. Its standard input and output are the sweep's; prints of jobs go into their own logs."""
    line, outgoing = socket.socket(fileno=os.dup(0)), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(2, 1)
    _be_the_first_to_go()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    warm, sys.argv[1:] = sys.argv[1:], []
    for name in warm:
        with contextlib.suppress(Exception):  # the task needs it or not, and says so
            importlib.import_module(name)
    if not socket.recv_fds(line, 1, 1)[0]:  # with the sweep's lock, which this process holds from here on
        return  # the sweep came to nothing
    incoming = line.makefile("rb")
    hello: Hello = receive(incoming)
    task = _prepared(hello)
    channel = Channel(incoming, outgoing, hello.grace)
    channel.say(Ready())
    with contextlib.suppress(KeyboardInterrupt):
        while (order := channel.inbox.get()) is not None:
            channel.say(run_job(task, order, channel))
            gc.collect()


def _prepared(hello: Hello) -> Any:
    """The task, imported under the path and the log of its sweep."""
    log = os.open(hello.log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    sys.path[:] = list(dict.fromkeys(hello.path))
    python_path = [*hello.path, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, python_path)))  # for what the jobs start
    module, _, name = hello.task.partition(":")
    return getattr(importlib.import_module(module), name)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def run_job(task: Any, order: Order, channel: Channel) -> Done:
    """Run one job with its output in its own log, and say how it ended, whatever it did."""
    directory = Path(order.directory)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with output_into(directory / LOG):
            try:
                done: Done = task(order, channel)
                return done
            except KeyboardInterrupt:
                return Done("interrupted", reason="stopped from outside", healthy=False)
            except BaseException as error:
                traceback.print_exc()
                return Done("failed", reason=f"{type(error).__name__}: {error}".rstrip(": "), healthy=False)
    except KeyboardInterrupt:
        return Done("interrupted", reason="stopped from outside", healthy=False)


def _be_the_first_to_go() -> None:
    """When memory runs out, the kernel should end a job, not the sweep that can report it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
