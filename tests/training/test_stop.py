import contextlib
import os
import signal

import pytest

from rlx.errors import STOP_SIGNALS
from rlx.training.stop import Stop, Stopped


@pytest.fixture(autouse=True)
def _nothing_ignored():
    """A shell that starts tests in the background has Ctrl-C ignored in them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR2, 75)])
def test_a_signal_is_remembered_and_handlers_are_put_back(number, code):
    before = signal.getsignal(number)
    stop = Stop()
    with stop.listening():
        stop.begin()
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    stopped = Stopped(7, number)
    assert str(stopped) == f"stopped by {signal.Signals(number).name} after step 7"
    assert (stopped.exit_code, stopped.step) == (code, 7)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped), (signal.SIGUSR2, Stopped)]
)
def test_before_there_is_a_step_to_finish_a_signal_ends_at_once(number, raised):
    with pytest.raises(raised) as stopped, Stop().listening(), contextlib.suppress(Exception):  # as code on the way may have it
        os.kill(os.getpid(), number)
    if raised is Stopped:
        assert str(stopped.value) == f"stopped by {signal.Signals(number).name} before a step was done"
        assert stopped.value.exit_code == 75


def test_what_is_ignored_is_no_reason_to_end_at_once():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop().listening() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_number == signal.SIGINT
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_ends_at_once():
    stop = Stop()
    with stop.listening():
        stop.begin()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
