"""Signals that stop a run: Ctrl-C, SIGTERM or SIGUSR2 end it after the current step, with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rlx.errors import STOP_SIGNALS
from rlx.interrupt import handled, postponed, raise_swallowed


class Stopped(Exception):  # noqa: N818 (a requested stop is not an error)
    """A signal stopped the run; a checkpoint is written if a step was completed."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step = step
        self.directory: Path | None = None  # of the run, once its status is interrupted and a checkpoint exists
        self.signal_name = signal.Signals(signal_number).name
        self.exit_code: int = STOP_SIGNALS[signal.Signals(signal_number)]
        super().__init__(f"stopped by {self.signal_name} {f'after step {step}' if step else 'before a step was done'}")


class Stop:
    """Whether a signal asked this process to stop.

    Before `begin` a signal ends the run at once. After it a signal is stored, the loop checks for it after each step, and a
    second Ctrl-C ends the run at once.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._has_begun = False
        self._before: dict[int, object] = {}

    @property
    def signal_number(self) -> int | None:
        """The number of the received signal; None if there is none."""
        return self._signal

    def begin(self) -> None:
        """Postpone signals to the end of the step from now on."""
        self._has_begun = True

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch the signals within this context; possible only in the main thread.

        Raises KeyboardInterrupt for a Ctrl-C and Stopped for another signal that ends the run at once.
        """
        with handled(self._caught) as self._before:
            try:
                raise_swallowed()
                yield self
            except KeyboardInterrupt:  # raised by `_caught`: not caught by any `except Exception` in between
                if self._signal in (None, signal.SIGINT):
                    raise
                raise Stopped(0, self._signal) from None

    def _caught(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self._signal == signal.SIGINT
        ignored = self._before.get(number) == signal.SIG_IGN  # a sweep stops its workers by other means
        at_once = again or not (self._has_begun or ignored)
        if at_once and postponed(number, frame):
            return
        self._signal = number
        if at_once:
            raise KeyboardInterrupt
