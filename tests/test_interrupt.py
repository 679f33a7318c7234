"""Ctrl-C within an import, and one that a library swallows."""

import signal
import subprocess
import sys

import pytest

from rlx import interrupt
from rlx.training.stop import Stop

IN_AN_IMPORT = """
import signal
from rlx.interrupt import on_ctrl_c
signal.signal(signal.SIGINT, on_ctrl_c)
try:
    import ends_whole
    import time
    time.sleep(5)
    print("not heard")
except KeyboardInterrupt:
    import sys
    print("interrupted", sys.modules["ends_whole"].WHOLE)
"""


@pytest.mark.whole
def test_an_import_is_completed_before_ctrl_c_is_heard(tmp_path):
    (tmp_path / "ends_whole.py").write_text(
        "import signal, time\ntry:\n    signal.raise_signal(signal.SIGINT)\n    time.sleep(0.1)\n"
        "except BaseException:\n    pass\nWHOLE = True\n"
    )
    (tmp_path / "main.py").write_text(IN_AN_IMPORT)
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted True\n", done.stderr


@pytest.mark.whole
def test_a_destructor_is_completed_before_ctrl_c_is_heard(tmp_path):
    (tmp_path / "main.py").write_text(
        "import signal, time\nfrom rlx.interrupt import on_ctrl_c\nsignal.signal(signal.SIGINT, on_ctrl_c)\n"
        "class Fragile:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n        print('whole')\n"
        "try:\n    Fragile()\n    time.sleep(5)\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("whole\ninterrupted\n", "")


def test_a_swallowed_ctrl_c_ends_the_run_that_begins(monkeypatch):
    monkeypatch.setattr(interrupt, "_was_raised", False)
    monkeypatch.setattr(interrupt, "_listens", False)
    with pytest.raises(KeyboardInterrupt):
        interrupt.on_ctrl_c(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt), Stop().listening():
        raise AssertionError("the run went on")


def test_a_run_without_a_signal_goes_on(monkeypatch):
    monkeypatch.setattr(interrupt, "_was_raised", False)
    monkeypatch.setattr(interrupt, "_listens", False)
    with Stop().listening() as stop:
        assert stop.signal_number is None
