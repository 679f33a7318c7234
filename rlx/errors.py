"""The errors of rlx, and the exit codes of its command line.

A message says what is wrong with a value, where the value came from, and how to fix it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import TracebackType


class ExitCode(IntEnum):
    """How a command ends. Every exit code of rlx is one of these."""

    OK = 0
    FAILED = 1  # the run failed, a law is broken, or the condition of fail_if holds
    USAGE = 2  # the command line, the config or the data cannot be used
    SWEEP_FAILED = 3  # some jobs of a sweep failed
    STOPPED = 75  # stopped by SIGTERM or SIGUSR2, after a checkpoint
    INTERRUPTED = 130  # interrupted by Ctrl-C


STOP_SIGNALS = {  # signal that stops a run -> exit code of the run
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.STOPPED,
    signal.SIGUSR2: ExitCode.STOPPED,
}


_ENDLESS = re.compile(r"\d{61,}|\S{601,}")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class RlxError(Exception):
    """Base class of all errors that rlx raises on purpose; the command line prints them without a traceback.

    Each argument is one line of the text. Line breaks and other control characters in quoted values are escaped (\\n). Numbers
    of more than 60 digits and words of more than 600 characters are cut.
    """

    exit_code: int = ExitCode.FAILED

    def __str__(self) -> str:
        return "\n".join(_line(str(argument)) for argument in self.args)


def _line(text: str) -> str:
    """The text as one line, with very long numbers and words cut."""
    shown = _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)
    return _ENDLESS.sub(lambda found: f"{found[0][: 200 if len(found[0]) > 600 else 20]}...({len(found[0])} characters)", shown)


class ConfigError(RlxError, ValueError):
    """A command line, config key or config value that cannot be used."""

    exit_code = ExitCode.USAGE


class DataError(RlxError, ValueError):
    """An input file, record or example that cannot be used."""

    exit_code = ExitCode.USAGE


class ShapeError(RlxError, ValueError):
    """Tensors whose shapes do not match."""


class TrainingError(RlxError, RuntimeError):
    """A run that cannot continue: a non-finite loss, a full disk, a reward that raises an exception."""


class NonFiniteError(TrainingError):
    """A value of a run is NaN or infinite: a loss, a gradient, an output of the policy."""


class EvidenceError(RlxError, ValueError):
    """A conclusion that the given runs do not support."""

    exit_code = ExitCode.USAGE


@cache
def _installed() -> tuple[str, ...]:
    """Folders of rlx, of Python's standard library and of installed packages."""
    import sysconfig

    paths = sysconfig.get_paths()
    folders = (Path(__file__).parent, *(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))
    return tuple(f"{folder}{os.sep}" for folder in folders)


def is_users_file(file: str) -> bool:
    """Whether a source file is the user's: not part of rlx, of Python or of an installed package."""
    return not file.startswith(("<", *_installed()))


def users_frames(error: BaseException) -> Iterator[TracebackType]:
    """The frames of an error's traceback that are in the user's files."""
    frame = error.__traceback__
    while frame is not None:
        if is_users_file(frame.tb_frame.f_code.co_filename):
            yield frame
        frame = frame.tb_next


def users_place(error: BaseException) -> str:
    """The innermost frame in a file of the user, as `FILE:LINE in FUNCTION`; "" if there is none."""
    frames = list(users_frames(error))
    if not frames:
        return ""
    code = frames[-1].tb_frame.f_code
    return f"{code.co_filename}:{frames[-1].tb_lineno} in {code.co_name}"
