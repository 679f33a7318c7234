"""Makes standard output and error unable to fail a command: closed, on a full disk, or a pipe without a reader.

A command continues and ends with its own exit code and a complete record; output that cannot be written is dropped. Nothing is
reported if a reader stops early (`rlx runs | head`); if a file cannot take the output, stderr says so.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO

_GONE = (errno.EPIPE, errno.EIO, errno.ECONNRESET)  # the reader ended, or the terminal hung up


class _Descriptor(io.FileIO):
    """A file descriptor whose write never raises. error: the first error that lost output somebody wanted."""

    error: OSError | None = None

    def write(self, data: object) -> int:
        try:
            while (written := super().write(data)) is None:  # type: ignore[arg-type]  # another process made it non-blocking
                select.select([], [self], [])
            return written
        except OSError as error:
            if error.errno in _GONE:  # for native code and child processes too
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            else:
                self.error = self.error or error
            return memoryview(data).nbytes  # type: ignore[arg-type]


def install() -> None:
    """Replace sys.stdout and sys.stderr by streams whose writes never raise, for the whole process.

    A closed descriptor is first opened on the null device; otherwise the next opened file would take its number and its output.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            if nowhere != number:
                os.close(nowhere)
    sys.stdout, sys.stderr = _stream(1, sys.stdout), _stream(2, sys.stderr)


def _stream(number: int, before: TextIO | None) -> io.TextIOWrapper:
    """A stream with the settings of the given one; None stands for a stream that was closed."""
    like = before if isinstance(before, io.TextIOWrapper) else None
    return io.TextIOWrapper(
        io.BufferedWriter(_Descriptor(number, "w", closefd=False)),
        encoding=like.encoding if like else "utf-8",
        errors=like.errors if like else "backslashreplace",
        line_buffering=like.line_buffering if like else False,
        write_through=like.write_through if like else False,
    )


def lost_output() -> str | None:
    """Why standard output is incomplete; None if everything was written or nobody reads it any more."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Descriptor) or raw.error is None:
        return None
    return f"standard output could not be written: {raw.error.strerror}; what was shown is not all"
