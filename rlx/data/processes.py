"""Shares work out among copies of this process, which have its objects without sending them. On Linux alone."""

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
_MOST = 8  # processes, each with memory of its own for what it makes
_STALLED = 120.0  # seconds without a part, of which each takes about one
_PARALLEL = "TOKENIZERS_PARALLELISM"


def num_processes() -> int:
    """How many processes share work out well; 1 where this is not Linux, or there is one core."""
    return min(_MOST, len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1


def in_processes(work: Callable[[Any], Any], parts: Sequence[Any], processes: int) -> list[Any] | None:
    """`work` of each part, in their order; None if a process could not be made, failed, died, or all of them stand still.

    work: makes what pickle can send; it computes without torch, whose threads a copy of this process does not have. It may use
    a fast tokenizer that no other thread uses now.
    """
    children: dict[int, IO[bytes]] = {}
    readers: list[Thread] = []
    sent: SimpleQueue[tuple[int, Any] | None] = SimpleQueue()  # None: a process has ended
    found: dict[int, Any] = {}
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"  # the threads of tokenizers are not copied
    try:
        with TemporaryFile(buffering=0) as jobs:  # numbers of parts; copies of this process share the place that is read next
            jobs.write(b"".join(number.to_bytes(4, "little") for number in range(len(parts))))
            jobs.seek(0)
            for _ in range(min(processes, len(parts))):
                child, results = _copy(work, parts, jobs.fileno(), list(children.values()))
                children[child] = results
        for results in children.values():
            reader = Thread(target=_read, args=(results, sent), name="results")
            reader.start()
            readers.append(reader)
        for _ in readers:
            while (item := sent.get(timeout=_STALLED)) is not None:
                found[item[0]] = item[1]
    except Empty:  # all wait for what another thread held when they were made
        _log.warning("no copy of this process has tokenised anything for %g s; one process goes on alone", _STALLED)
        return None
    except (OSError, RuntimeError):  # no process, thread or file more
        return None
    finally:
        os.environ.pop(_PARALLEL) if before is None else os.environ.update({_PARALLEL: before})
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):  # where SIGCHLD is ignored, it is gone without a trace
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        for reader in readers:
            reader.join()
        for results in children.values():
            results.close()
    return [found[number] for number in range(len(parts))] if len(found) == len(parts) else None


def _copy(work: Callable[[Any], Any], parts: Sequence[Any], jobs: int, others: Sequence[IO[bytes]]) -> tuple[int, IO[bytes]]:
    """A copy of this process that works: its number, and where its results are read."""
    place, end = os.pipe()
    results, sent, own = os.fdopen(place, "rb"), os.fdopen(end, "wb"), os.getpid()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that other threads are not copied
            child = os.fork()
        if child:
            sent.close()
            return child, results
        gc.freeze()  # a search for garbage would write to all objects, and so copy the memory of this process
        for each in STOP_SIGNALS:  # of the whole group: the process that reads decides, and ends this one
            signal.signal(each, signal.SIG_IGN)
        for stream in (*others, results):  # so that writing fails once the process that reads is gone
            stream.close()
        while job := os.read(jobs, 4):
            number = int.from_bytes(job, "little")
            pickle.dump((number, work(parts[number])), sent, pickle.HIGHEST_PROTOCOL)
            sent.flush()
        os._exit(0)
    except BaseException:  # in the copy even what a signal raises ends here: the caller goes on in one process alone
        if os.getpid() != own:
            os._exit(1)
        results.close()
        sent.close()
        raise


def _read(results: IO[bytes], sent: SimpleQueue[tuple[int, Any] | None]) -> None:
    """Hand on what a process sends until it ends, then None."""
    try:
        while True:
            sent.put(pickle.load(results))  # of a copy of this process
    except Exception:  # the end, where pickle raises whatever it likes in the middle of an object
        sent.put(None)
