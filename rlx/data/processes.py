"""Distributes work over forks of this process, which share its objects without sending them. Linux only."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from tempfile import TemporaryFile
from threading import Thread
from typing import IO, Any

from rlx.errors import STOP_SIGNALS

_log = logging.getLogger(__name__)
_MOST = 8  # processes at most, as each needs memory for its results
_STALLED = 120.0  # seconds without a finished part, each of which takes about one second
_PARALLEL = "TOKENIZERS_PARALLELISM"


def num_processes() -> int:
    """The number of processes to use; 1 if this is not Linux, or there is only one core."""
    return min(_MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def in_processes(work: Callable[[Any], Any], parts: Sequence[Any], processes: int) -> list[Any] | None:
    """`work` of each part, in order; None if a process could not be started, failed or died, or if all of them stall.

    work: returns a picklable object; it must not use torch, whose threads a fork does not have. It may use a fast tokenizer
    that no other thread is currently using.
    """
    children: dict[int, IO[bytes]] = {}
    readers: list[Thread] = []
    sent: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()  # None: a process has ended
    found: dict[int, Any] = {}
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"  # the threads of tokenizers are not forked
    try:
        with TemporaryFile(buffering=0) as jobs:  # indices of parts; forks share the read position
            jobs.write(b"".join(number.to_bytes(4, "little") for number in range(len(parts))))
            jobs.seek(0)
            for _ in range(min(processes, len(parts))):
                child, results = _fork(work, parts, jobs.fileno(), list(children.values()))
                children[child] = results
        for results in children.values():
            reader = Thread(target=_forward, args=(results, sent), name="results")
            reader.start()
            readers.append(reader)
        for _ in readers:
            while (item := sent.get(timeout=_STALLED)) is not None:
                found[item[0]] = item[1]
    except Empty:  # all wait for what another thread held when they were made
        _log.warning("the copies of this process have tokenised nothing for %g s; continuing with one process", _STALLED)
        return None
    except (OSError, RuntimeError):  # no further process, thread or file available
        return None
    finally:
        os.environ.pop(_PARALLEL) if before is None else os.environ.update({_PARALLEL: before})
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):  # if SIGCHLD is ignored, no exit status is left
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for reader in readers:
            reader.join()
        for results in children.values():
            results.close()
    return [found[number] for number in range(len(parts))] if len(found) == len(parts) else None


def _fork(work: Callable[[Any], Any], parts: Sequence[Any], jobs: int, others: Sequence[IO[bytes]]) -> tuple[int, IO[bytes]]:
    """Fork a worker process: its id, and the stream of its results."""
    place, end = os.pipe()
    results, sent, own = os.fdopen(place, "rb"), os.fdopen(end, "wb"), os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # warns that other threads are not forked
            child = os.fork()
        if child:
            sent.close()
            return child, results
        gc.freeze()  # garbage collection would write to all objects, and so copy the memory of this process
        for each in STOP_SIGNALS:  # sent to the whole group: the parent decides, and ends this process
            signal.signal(each, signal.SIG_IGN)
        for stream in (*others, results):  # so that writing fails once the parent is gone
            stream.close()
        while job := os.read(jobs, 4):
            number = int.from_bytes(job, "little")
            pickle.dump((number, work(parts[number])), sent, pickle.HIGHEST_PROTOCOL)
            sent.flush()
        os._exit(0)
    except BaseException:  # in the fork even a signal's exception ends here: the parent continues in one process
        if os.getpid() != own:
            os._exit(1)
        results.close()
        sent.close()
        raise


def _forward(results: IO[bytes], sent: SimpleQueue[tuple[int, Any] | None]) -> None:
    """Forward the results of a process until it ends, then None."""
    try:
        while True:
            sent.put(pickle.load(results))  # trusted: from a fork of this process
    except Exception:  # the end of the stream; pickle raises various types in the middle of an object
        sent.put(None)
