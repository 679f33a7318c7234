"""Messages through a pipe arrive whole, however they are cut."""

import os

import pytest

from rlx.sweep.pool.messages import Done, Inbox, JobProgress, receive, send_message


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
