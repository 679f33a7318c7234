"""What runs when: failures, retries, timeouts, being asked to stop, answers."""

import os
import signal
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest

from rlx.sweep.pool.pool import Pool
from rlx.sweep.pool.runner import JobQueue, Runner
from rlx.sweep.state import JobState, SweepState
from tests.sweep.search.test_study import settings

HERE = str(Path(__file__).parents[1])
PATH = [HERE, *sys.path]  # a worker of a sweep has the whole path, and Python 3.13 imports some of its own modules late


class Seen:
    """A view that keeps what it is told."""

    def __init__(self):
        self.told, self.notes = [], []

    def refresh(self): ...

    def ended(self, job):
        self.told.append((job.name, job.state))

    def note(self, text):
        self.notes.append(text)

    def close(self): ...


@pytest.fixture
def runner(tmp_path):
    made = []

    def make(contents, size=1, work=None, **changes):
        jobs = {name: JobState(name, "v", 0, [], name, num_steps=3) for name in contents}
        pool = Pool(size, "trivial:run", PATH, tmp_path / "log", grace=1)
        pool.start()
        made.append(pool)
        state = SweepState(tmp_path, {}, jobs)
        options = {"grace": 1.0, **changes}
        return Runner(
            state, (work or JobQueue)(deque(jobs.values())), pool, settings(**options), Seen(), lambda job: contents[job.name]
        )

    yield make
    for pool in made:
        pool.close()


def states(runner):
    return {name: job.state for name, job in runner.state.jobs.items()}


def test_every_job_has_its_end(runner):
    made = runner({"a": ["nothing"], "b": ["raise"], "c": ["kill"], "d": ["nothing"]}, size=2)
    made.run()
    assert states(made) == {"a": "completed", "b": "failed", "c": "failed", "d": "completed"}
    assert made.state.jobs["b"].log_tail.endswith("ValueError: boom")
    assert sorted(name for name, _ in made.view.told) == ["a", "b", "c", "d"]
    assert [made.state.jobs[name].attempts for name in "abcd"] == [1, 1, 1, 1]
    assert all(job.seconds > 0 for job in made.state.jobs.values())


@pytest.mark.whole
def test_a_job_that_hangs_is_ended_and_the_rest_run(runner):
    made = runner({"a": ["stubborn"], "b": ["sleep", 60], "c": ["nothing"]}, timeout=1.0, grace=0.5)
    made.run()
    assert states(made) == {"a": "failed", "b": "failed", "c": "completed"}
    assert made.state.jobs["a"].reason == made.state.jobs["b"].reason == "timeout: it took more than 1 s (sweep.timeout)"


def test_a_failure_is_tried_again_as_often_as_told(runner):
    made = runner({"a": ["kill"], "b": ["nothing"]}, retries=2)
    made.run()
    assert (made.state.jobs["a"].attempts, made.state.jobs["b"].attempts) == (3, 1)
    assert states(made) == {"a": "failed", "b": "completed"}


def test_attempts_of_earlier_starts_use_up_no_retry(runner):
    made = runner({"a": ["kill"]}, retries=1)
    made.state.jobs["a"].attempts = 5
    made.run()
    assert made.state.jobs["a"].attempts == 7


def test_on_failure_stop(runner):
    made = runner({"a": ["raise"], "b": ["nothing"], "c": ["nothing"]}, on_failure="stop")
    made.run()
    assert states(made) == {"a": "failed", "b": "waiting", "c": "waiting"}
    assert made.halted


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR2, 75)])
def test_a_signal_stops_the_jobs_and_begins_no_other(runner, number, asked):
    from rlx.errors import STOP_SIGNALS

    made = runner({"a": ["sleep", 60], "b": ["nothing"]})
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    before = time.monotonic()
    made.run()
    assert time.monotonic() - before < 20
    assert states(made) == {"a": "interrupted", "b": "waiting"}
    assert STOP_SIGNALS[made.stop_signal] == asked
    assert "checkpoint" in made.view.notes[0]


@pytest.mark.whole
def test_a_second_ctrl_c_ends_at_once(runner):
    made = runner({"a": ["stubborn"]}, grace=60.0)
    for delay in (1.5, 2.0):
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
    before = time.monotonic()
    made.run()
    assert time.monotonic() - before < 20
    assert states(made) == {"a": "interrupted"}


def test_jobs_hear_whether_to_go_on(runner):
    class Strict(JobQueue):
        wants_answers = True

        def shall_prune(self, job, step, figures):
            return job.name == "b" and figures["eval/score"] >= 2

    made = runner({"a": ["ask"], "b": ["ask"]}, work=Strict)
    made.work.wants_answers = True
    made.run()
    assert states(made) == {"a": "completed", "b": "pruned"}
    assert (made.state.jobs["b"].step, made.state.jobs["b"].score) == (2, 2.0)
