import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from rlx.data.processes import in_processes, num_processes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux alone")


def no_child_is_left():
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    return True


def test_results_come_in_the_order_of_the_parts_and_from_several_processes():
    numbers = list(range(300))

    def work(number):
        time.sleep(0.001)
        return number * 2, os.getpid(), os.environ["TOKENIZERS_PARALLELISM"], b"x" * 5000

    made = in_processes(work, numbers, 3)
    assert [each[0] for each in made] == [number * 2 for number in numbers]
    assert len({each[1] for each in made} - {os.getpid()}) == 3
    assert {each[2] for each in made} == {"false"}
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    assert no_child_is_left()
    assert num_processes() >= 1


def test_no_process_is_made_that_has_nothing_to_do(monkeypatch):
    made = []
    monkeypatch.setattr(os, "fork", lambda own=os.fork: made.append(1) or own())
    assert in_processes(abs, [-1, -2], 5) == [1, 2]
    assert len(made) == 2


@pytest.mark.parametrize("fault", [lambda: 1 / 0, lambda: os.kill(os.getpid(), signal.SIGKILL), lambda: sys.exit(3)])
def test_a_process_that_fails_or_dies_leaves_it_to_the_caller(fault):
    assert in_processes(lambda number: fault() if number == 5 else number, list(range(20)), 2) is None
    assert no_child_is_left()


def test_a_process_that_stands_still_leaves_it_to_the_caller_and_is_said(monkeypatch, caplog):
    monkeypatch.setattr("rlx.data.processes._STALLED", 0.5)
    assert in_processes(lambda number: time.sleep(600) if number == 5 else number, list(range(20)), 2) is None
    assert "for 0.5 s; continuing with one process" in caplog.text
    assert no_child_is_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR2])
def test_a_signal_to_the_group_is_for_the_first_process_alone(number):
    assert in_processes(lambda part: os.kill(os.getpid(), number) or part, [1, 2, 3], 2) == [1, 2, 3]


def test_it_works_where_ended_processes_leave_no_trace():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert in_processes(lambda number: -number, [1, 2, 3], 2) == [-1, -2, -3]
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_where_no_process_can_be_made_the_caller_works(monkeypatch):
    made = []

    def fork(own=os.fork):
        made.append(own() if not made else None)
        if made[-1] is None:
            raise BlockingIOError("no process more")
        return made[-1]

    monkeypatch.setattr(os, "fork", fork)
    assert in_processes(lambda number: number, [1, 2], 2) is None
    assert no_child_is_left()


def test_where_python_makes_no_files_in_memory_or_none_at_all(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create", raising=False)  # as where it was built for an older system
    assert in_processes(abs, [-1, -2, -3], 2) == [1, 2, 3]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    assert in_processes(abs, [-1, -2, -3], 2) is None
    assert no_child_is_left()


@pytest.mark.parametrize("refused", [1, 2])
def test_where_no_thread_can_be_made_the_caller_works(monkeypatch, refused):
    begun = []

    def start(thread, own=threading.Thread.start):
        begun.append(thread)
        if len(begun) == refused:
            raise RuntimeError("can't start new thread")
        own(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    assert in_processes(lambda number: number, [1, 2], 2) is None
    assert no_child_is_left()


SIGNALLED = """
import os, signal
from rlx.data.processes import in_processes

def raised(number, frame):
    raise KeyboardInterrupt

def fork(own=os.fork):
    child = own()
    if not child:
        os.kill(os.getpid(), signal.{name})
    return child

signal.signal(signal.{name}, raised)
os.fork = fork
print(in_processes(abs, [1, 2, 3], 2), flush=True)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGALRM"])
def test_a_process_that_a_signal_meets_as_it_begins_does_not_go_on_as_the_caller(name):
    done = subprocess.run([sys.executable, "-c", SIGNALLED.format(name=name)], capture_output=True, text=True, timeout=400)
    assert (done.stdout, done.stderr) == ("None\n", "")


def test_an_interrupt_ends_the_processes():
    def interrupted(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupted)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            in_processes(lambda number: time.sleep(60), [1, 2], 2)
        assert time.monotonic() - start < 30
    finally:
        signal.signal(signal.SIGALRM, before)
    assert no_child_is_left()
