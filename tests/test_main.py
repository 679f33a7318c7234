"""Signals at any moment of a command's life: a line, the exit code that the guide names, no traceback."""

import signal
import subprocess
import sys
import time

import pytest

CODES = {signal.SIGTERM: 75, signal.SIGUSR2: 75, signal.SIGINT: 130}


@pytest.mark.whole
@pytest.mark.parametrize("delay", [0.15, 0.4, 0.8, 1.5, 3.0])
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_while_rlx_starts_is_answered(tmp_path, number, delay):
    command = [sys.executable, "-m", "rlx", "train", "num_steps=100000", "logger=[]", "eval_every=null"]
    child = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_with_signals
    )
    started = time.monotonic()
    while time.monotonic() - started < delay and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(number)
    shown, said = child.communicate(timeout=60)
    at_once = -number if delay < 0.5 else CODES[number]  # the interpreter itself may not be up yet
    assert child.returncode in (CODES[number], at_once), said
    if child.returncode == CODES[number]:
        assert "Traceback" not in said
        assert len(said.strip().splitlines()) <= 3
        assert said or "ended at once" in shown


def _with_signals() -> None:
    """A test run in the background ignores Ctrl-C, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.whole
def test_a_signal_after_a_run_changes_no_exit_code():
    code = (
        "import os, signal, rlx.__main__, rlx.cli.main, rlx.interrupt\n"
        "def late():\n    rlx.interrupt.raise_swallowed()\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('said')\n"
        "rlx.cli.main.command_line = late\nrlx.__main__.entry()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "said\n", "")
