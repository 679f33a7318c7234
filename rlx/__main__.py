"""Entry point of `rlx` and `python -m rlx`: sets signal handlers and replaces broken outputs before any heavy import."""

from __future__ import annotations

import os
import signal

from rlx.errors import STOP_SIGNALS
from rlx.garbage import search_seldom
from rlx.interrupt import EARLY, on_ctrl_c, run_has_listened


def entry() -> None:
    """Run the command line. A signal before a run has set its handlers ends the process with one line and code 75 or 130."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stopped_early)
    listens = signal.getsignal(signal.SIGINT) == signal.default_int_handler  # false if the caller ignores it, as nohup does
    if listens:
        signal.signal(signal.SIGINT, _stopped_early)
    search_seldom()
    from rlx.cli.output import install

    install()
    from rlx.cli.main import command_line

    if listens:
        signal.signal(signal.SIGINT, on_ctrl_c)
    command_line()


def _stopped_early(number: int, _: object) -> None:
    """End the process at once: nothing is open yet that must be closed, and an import could swallow an exception."""
    if run_has_listened():  # the run has ended: only its exit code is left to report
        return
    os.write(2, f"{EARLY.format(signal.Signals(number).name)}\n".encode())
    os._exit(STOP_SIGNALS[signal.Signals(number)])


if __name__ == "__main__":
    entry()
