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
    """A signal stopped the run; its checkpoint is written if a step was completed."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step = step
        self.directory: Path | None = None  # of the run, once its record says interrupted and a checkpoint exists
        self.signal_name = signal.Signals(signal_number).name
        self.exit_code: int = STOP_SIGNALS[signal.Signals(signal_number)]
        super().__init__(f"stopped by {self.signal_name} {f'after step {step}' if step else 'before a step was done'}")


class Stop:
    """Whether a signal asked this process to stop.

    Before `begin` a signal ends the run at once. After it a signal is remembered, for the loop to ask for after each step, and a
    second Ctrl-C ends the run at once.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._has_begun = False
        self._before: dict[int, object] = {}

    @property
    def signal_number(self) -> int | None:
        """The signal that has come; None for none."""
        return self._signal

    def begin(self) -> None:
        """From now on signals wait for the end of a step."""
        self._has_begun = True

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch the signals within this context; only a main thread can.

        Raises KeyboardInterrupt for a Ctrl-C and Stopped for another signal, where they end the run at once.
        """
        with handled(self._caught) as self._before:
            try:
                raise_swallowed()
                yield self
            except KeyboardInterrupt:  # raised by `_caught`: no `except Exception` in between catches it
                if self._signal in (None, signal.SIGINT):
                    raise
                raise Stopped(0, self._signal) from None

    def _caught(self, number: int, frame: FrameType | None) -> None:
        again = number == signal.SIGINT and self._signal == signal.SIGINT
        ignored = self._before.get(number) == signal.SIG_IGN  # a sweep tells its workers by other means
        at_once = again or not (self._has_begun or ignored)
        if at_once and postponed(number, frame):
            return
        self._signal = number
        if at_once:
            raise KeyboardInterrupt
