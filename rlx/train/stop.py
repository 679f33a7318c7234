"""Being asked to stop: Ctrl-C, SIGTERM or SIGUSR2 end a run after the step at hand, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 75, signal.SIGUSR2: 75}


class Stopped(Exception):  # noqa: N818 (to stop when asked is no error)
    """The run was asked to stop and has written its checkpoint."""

    def __init__(self, step: int, signal_number: int) -> None:
        self.step = step
        self.directory: Path | None = None  # the run's, once its record says so
        self.signal_name = signal.Signals(signal_number).name
        self.exit_code = EXIT_CODES[signal.Signals(signal_number)]
        super().__init__(f"stopped by {self.signal_name} after step {step}")


class Stop:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._signal: int | None = None

    @property
    def requested(self) -> bool:
        """A signal has come."""
        return self._signal is not None

    def check(self, step: int) -> None:
        """Raise Stopped if a signal has come."""
        if self._signal is not None:
            raise Stopped(step, self._signal)

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Catch the signals while this lasts; a second Ctrl-C ends at once. Only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._caught) for number in EXIT_CODES}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _caught(self, number: int, frame: object) -> None:
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number
