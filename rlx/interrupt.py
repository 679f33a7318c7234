"""Signals: a handler for as long as something runs, and Ctrl-C before a run listens.

Ctrl-C before a run listens: it waits for the end of an import or destructor, and is not lost where a library swallows it.

An exception within an import is swallowed by code that tries several modules, leaves modules half loaded, or ends the
process where a compiled module calls back into Python; one within a destructor is printed with a traceback, and ignored.
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
    """Let `handler` handle these signals within this context, and yield the handlers of before, which are put back at its end.

    In another thread than the main one, where Python sets no handlers, nothing changes.
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
    """Whether `frame` is within an import or destructor; the signal is then raised again a little later, until that has ended."""
    if not _swallows(frame):
        return False
    import threading

    again = threading.Timer(POLL_SECONDS, signal.raise_signal, [number])
    again.daemon = True
    again.start()
    return True


def on_ctrl_c(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT before a run listens: raise KeyboardInterrupt, after an import if one goes on."""
    global _was_raised
    if not postponed(number, frame):
        _was_raised = True
        raise KeyboardInterrupt


def raise_swallowed() -> None:
    """As a run begins to listen: raise KeyboardInterrupt if `on_ctrl_c` raised one and the process went on."""
    global _listens
    _listens = True
    if _was_raised:
        raise KeyboardInterrupt


def run_has_listened() -> bool:
    """Whether a run of this process has listened for signals, from its beginning on."""
    return _listens


def early_end() -> str:
    """What to print of a Ctrl-C that came before a run listened, which would say more itself; empty for another one."""
    return EARLY.format("SIGINT") if _was_raised and not _listens else ""


def _swallows(frame: FrameType | None) -> bool:
    """Whether the frame is within an import or a destructor."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib") or frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False
