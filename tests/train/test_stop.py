import os
import signal

import pytest

from rlx.train.stop import Stop, Stopped


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR2, 75)])
def test_a_signal_is_remembered_and_handlers_are_put_back(number, code):
    before = signal.getsignal(number)
    stop = Stop()
    with stop.listening():
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(Stopped, match=signal.Signals(number).name) as stopped:
            stop.check(7)
    assert (stopped.value.exit_code, stopped.value.step) == (code, 7)
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once():
    stop = Stop()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
