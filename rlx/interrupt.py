"""Signals: temporary handlers, and Ctrl-C before a run has set its own handler.

Such an early Ctrl-C is postponed until the current import or destructor ends, and is not lost if a library swallows it.

An exception within an import may be swallowed by code that tries several modules, may leave modules half loaded, or may end
the process where a compiled module calls back into Python. One within a destructor is printed with a traceback and ignored.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rlx.errors import STOP_SIGNALS

POLL_SECONDS = 0.02
EARLY = "rlx: stopped by {} before anything was saved; run it again"
_was_raised = False
_listens = False


@contextmanager
def handled(
    handler: Callable[[int, FrameType | None], Any], signals: Iterable[int] = tuple(STOP_SIGNALS)
) -> Iterator[dict[int, Any]]:
    """Let `handler` handle these signals within this context; yield the previous handlers and restore them at the end.

    Does nothing outside the main thread, where Python cannot set handlers.
    """
    import threading

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in signals} if is_main else {}
    try:
        yield before
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def postponed(number: int, frame: FrameType | None) -> bool:
    """Whether `frame` is within an import or destructor; if so, the signal is raised again a little later, until it has ended."""
    if not _swallows(frame):
        return False
    import threading

    again = threading.Timer(POLL_SECONDS, signal.raise_signal, [number])
    again.daemon = True
    again.start()
    return True


def on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """The SIGINT handler until a run sets its own: raise KeyboardInterrupt, after the current import if there is one."""
    global _was_raised
    if not postponed(number, frame):
        _was_raised = True
        raise KeyboardInterrupt


def raise_swallowed() -> None:
    """Raise KeyboardInterrupt if `on_ctrl_c` raised one that was swallowed. Called when a run sets its own handlers."""
    global _listens
    _listens = True
    if _was_raised:
        raise KeyboardInterrupt


def run_has_listened() -> bool:
    """Whether a run of this process has ever set its signal handlers."""
    return _listens


def early_end() -> str:
    """The message for a Ctrl-C before a run had set its handlers; "" otherwise, as the run prints its own message."""
    return EARLY.format("SIGINT") if _was_raised and not _listens else ""


def _swallows(frame: FrameType | None) -> bool:
    """Whether the frame is within an import or a destructor."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
