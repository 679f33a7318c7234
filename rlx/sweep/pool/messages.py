"""The messages between a sweep and its workers: pickles with their length before them, through pipes."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from rlx.sweep.kept import KeptModule

_LENGTH = struct.Struct("!Q")


@dataclass(frozen=True)
class Setup:
    """The first message to a worker.

    task: the `module:function` that runs a job. path: the Python path. log: the file for what is printed outside of jobs.
    grace: seconds that the worker has to end in when the sweep dies. kept: the user's modules, imported from the sweep's copies.
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
    num_steps: int | None = None


@dataclass(frozen=True)
class Evaluated:
    """A job was evaluated, and waits for an `Answer`."""

    step: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Answer:
    """Whether the job shall end here, because its search has given it up."""

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
    """The messages that arrive at a file descriptor, without waiting for the rest of one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        os.set_blocking(descriptor, False)

    def read(self) -> tuple[list[Any], bool]:
        """The whole messages that have come, and whether the other side is gone."""
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
