"""A worker's side: logs of its own, and an end for every job."""

import io
import os
import pickle
import struct

import pytest

from rlx.sweep.pool.messages import Answer, Assignment, Done, Evaluated, JobProgress
from rlx.sweep.pool.worker import Channel, run_logged


@pytest.fixture
def channel():
    reading, writing = os.pipe()
    out = io.BytesIO()
    made = Channel(os.fdopen(reading, "rb"), out)
    made.hear = lambda message: os.write(writing, struct.pack("!Q", len(pickle.dumps(message))) + pickle.dumps(message))
    made.out = out
    return made


def said(channel):
    data, found = channel.out.getvalue(), []
    while data:
        (length,) = struct.unpack("!Q", data[:8])
        found.append(pickle.loads(data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def test_progress_is_told_now_and_then(channel):
    for step in range(1000):
        channel.progress(step, {"eval/score": 1.0})
    assert said(channel)[0] == JobProgress(0, {"eval/score": 1.0})
    assert len(said(channel)) < 10


def test_an_evaluation_waits_for_its_answer(channel):
    channel.hear(Answer(True))
    assert channel.shall_stop(3, {}) is True
    channel.hear(Answer(False))
    assert channel.shall_stop(4, {}) is False
    assert said(channel) == [Evaluated(3, {}), Evaluated(4, {})]


@pytest.mark.parametrize(
    ("does", "state", "reason"),
    [
        (lambda: Done("completed"), "completed", ""),
        (lambda: 1 / 0, "failed", "ZeroDivisionError: division by zero"),
        (lambda: exec("raise SystemExit(5)"), "failed", "SystemExit: 5"),
        (lambda: exec("raise MemoryError"), "failed", "MemoryError"),
        (lambda: exec("raise KeyboardInterrupt"), "interrupted", "stopped from outside"),
    ],
)
def test_every_end_of_a_job_is_said(tmp_path, channel, does, state, reason):
    done = run_logged(lambda order, channel: does(), Assignment("a", str(tmp_path / "a"), None), channel)
    assert (done.state, done.reason) == (state, reason)
    assert done.healthy == (state == "completed")
