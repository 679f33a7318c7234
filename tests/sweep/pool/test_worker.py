"""A worker's side: logs of its own, and an end for every job."""

import io
import os
import pickle
import struct

import pytest

from rlx.sweep.pool.worker import (
    Answer,
    Assignment,
    Channel,
    Done,
    Evaluated,
    Inbox,
    JobProgress,
    receive,
    run_logged,
    send_message,
)


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


# Messages through a pipe arrive whole, however they are cut.


@pytest.fixture
def pipe():
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as end, os.fdopen(writing, "wb") as start:
        yield end, start


def test_a_message_arrives_as_it_was_sent(pipe):
    end, start = pipe
    send_message(start, Done("failed", {"eval/score": 0.5}, reason="so"))
    assert receive(end) == Done("failed", {"eval/score": 0.5}, reason="so")


def test_the_end_of_the_other_side_is_an_error(pipe):
    end, start = pipe
    start.write(b"\0\0")
    start.close()
    with pytest.raises(EOFError):
        receive(end)


def test_an_inbox_waits_for_nothing_and_joins_pieces(pipe, tmp_path):
    end, start = pipe
    inbox = Inbox(end.fileno())
    assert inbox.read() == ([], False)
    with open(tmp_path / "whole", "wb") as whole:
        send_message(whole, JobProgress(1))
        send_message(whole, JobProgress(2))
    data = (tmp_path / "whole").read_bytes()
    half = len(data) // 2 + 3
    start.write(data[:half])
    start.flush()
    assert inbox.read() == ([JobProgress(1)], False)
    start.write(data[half:])
    start.flush()
    assert inbox.read() == ([JobProgress(2)], False)
    start.close()
    assert inbox.read() == ([], True)
