"""One process of the pool: it waits until it is told what it is for, runs what it is given, and ends when it is told to."""

import signal
import sys
import time
from pathlib import Path

import pytest

from rlx.sweep.pool.pool import Worker
from rlx.sweep.pool.worker import Assignment, Done, Ready, Setup

HERE = str(Path(__file__).parents[1])


@pytest.fixture
def worker(tmp_path):
    log = tmp_path / "log"
    made = Worker.start(3, path=[*sys.path, HERE], log=log, variables={"CUDA_VISIBLE_DEVICES": "7"}, preloaded=["json"])
    made.setup = Setup("trivial:run", (HERE, *sys.path), str(log), 5.0)
    yield made
    made.close()


def next_message(worker):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        messages, gone = worker.inbox.read()
        if messages or gone:
            return messages[-1] if messages else None
        time.sleep(0.05)
    pytest.fail("it says nothing")


def test_it_runs_what_it_is_given(worker, tmp_path):
    worker.set_up(worker.setup, None)
    assert isinstance(next_message(worker), Ready)
    assert b"CUDA_VISIBLE_DEVICES=7" in Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
    worker.is_ready = True
    assert worker.is_idle
    worker.assign(Assignment("a", str(tmp_path / "a"), ["nothing"]))
    assert not worker.is_idle
    done = next_message(worker)
    assert isinstance(done, Done)
    assert done.figures["pid"] == worker.process.pid


def test_it_can_be_asked_to_stop_once(worker):
    worker.ask_to_stop("because")
    first = worker.stop_requested_at
    worker.ask_to_stop("again")
    assert (worker.stop_requested_at, worker.stop_reason) == (first, "because")
    worker.kill()
    assert worker.process.wait(20) in (-signal.SIGKILL, -signal.SIGTERM, 1)
    worker.send("nothing")  # nobody listens any more
    worker.kill()


def test_one_that_is_never_told_what_for_ends(worker):
    worker.connection.close()
    assert worker.process.wait(60) is not None
