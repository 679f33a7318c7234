"""Warm processes: they take job after job, die, and are replaced."""

import fcntl
import os
import sys
import time
from pathlib import Path

import pytest

from rlx.errors import TrainingError
from rlx.record.directory import is_alive
from rlx.sweep.pool.pool import Pool
from rlx.sweep.pool.worker import Answer, Assignment, Done, Evaluated, tail

HERE = str(Path(__file__).parents[1])
PATH = [HERE, *sys.path]  # a worker of a sweep has the whole path, and Python 3.13 imports some of its own modules late


@pytest.fixture
def open_pool(tmp_path):
    pools = []

    def make(size=1, task="trivial:run", **options):
        pools.append(Pool(size, task, PATH, tmp_path / "workers.log", grace=5, **options))
        pools[-1].start()
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def ended(pool, contents, tmp_path, answer=None):
    """Run jobs; their last events by name."""
    waiting, last = dict(contents), {}
    until = time.monotonic() + 60
    while len(last) < len(contents):
        assert time.monotonic() < until
        for worker in pool.idle:
            if waiting:
                name = next(iter(waiting))
                worker.assign(Assignment(name, str(tmp_path / name), waiting.pop(name), wants_answers=True))
        for event in pool.events(0.1):
            if isinstance(event.message, Evaluated):
                pool.answer(event.slot, Answer(answer(event.message)))
            elif event.message is None or isinstance(event.message, Done):
                last[event.assignment.name] = event
    return last


def test_one_process_runs_job_after_job(open_pool, tmp_path):
    last = ended(open_pool(), {"a": ["say"], "b": ["nothing"]}, tmp_path)
    assert len({event.message.figures["pid"] for event in last.values()}) == 1
    assert {event.message.figures["threads"] for event in last.values()} == {1.0}
    assert (tmp_path / "a" / "job.log").read_text() == "out\nerr\n"
    assert (tmp_path / "b" / "job.log").read_text() == ""


def test_searches_for_garbage_pass_over_what_the_start_and_the_first_job_left(open_pool, tmp_path):
    last = ended(open_pool(), {"a": ["keep"], "b": ["keep"], "c": ["nothing"]}, tmp_path)
    first, second, third = (last[name].message.figures["frozen"] for name in "abc")
    assert 1000 < first < second - 4000
    assert abs(third - second) < 100  # what later jobs leave is searched: it may be garbage one day


def test_a_death_is_told_with_its_cause_and_the_next_job_runs(open_pool, tmp_path):
    last = ended(open_pool(), {"a": ["kill"], "b": ["exit", 7], "c": ["raise"], "d": ["nothing"]}, tmp_path)
    assert "SIGKILL" in last["a"].reason
    assert "code 7" in last["b"].reason
    assert last["c"].message.reason == "ValueError: boom"
    assert "boom" in tail(tmp_path / "c" / "job.log")
    assert last["d"].message.state == "completed"


def test_what_a_dead_job_started_is_ended_too(open_pool, tmp_path):
    before = time.monotonic()
    last = ended(open_pool(), {"a": ["child"], "b": ["nothing"]}, tmp_path)  # the child holds the pipe open for a minute
    assert time.monotonic() - before < 30
    assert "SIGKILL" in last["a"].reason


def test_jobs_are_asked_to_stop_and_killed(open_pool, tmp_path):
    pool = open_pool(2)
    for name, content in (("gentle", ["sleep", 60]), ("stubborn", ["stubborn"])):
        while not pool.idle:
            list(pool.events(0.1))
        pool.idle[0].assign(Assignment(name, str(tmp_path / name), content))
    time.sleep(0.5)
    stubborn = next(worker for worker in pool.busy if worker.assignment.name == "stubborn")
    for worker in pool.busy:
        worker.ask_to_stop("because")
    time.sleep(0.5)
    stubborn.kill()
    events = {}
    until = time.monotonic() + 20
    while len(events) < 2 and time.monotonic() < until:
        events |= {event.assignment.name: event for event in pool.events(0.1) if event.assignment}
    assert events["gentle"].message.state == "interrupted"
    assert events["stubborn"].message is None
    assert {event.reason for event in events.values()} == {"because"}


def test_an_answer_ends_a_job(open_pool, tmp_path):
    last = ended(open_pool(), {"a": ["ask"]}, tmp_path, answer=lambda told: told.step == 2)
    assert (last["a"].message.state, last["a"].message.reason) == ("pruned", "after 2")


def test_workers_that_cannot_start_are_an_error_with_their_log(open_pool):
    pool = open_pool(task="no_such_module:run")

    def wait():
        for _ in range(300):
            list(pool.events(0.1))

    with pytest.raises(TrainingError, match="no_such_module"):
        wait()


def test_processes_begin_before_they_know_what_for(tmp_path):
    pool = Pool(2, "trivial:run", grace=5, preloaded=("no_such_module", "colorsys"))
    pool.start()
    try:
        first = pool.workers[0].process.pid
        assert list(pool.events(0.5)) == []
        assert pool.idle == []
        file = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        pool.set_up(1, path=PATH, log=tmp_path / "workers.log", lock=file)
        last = ended(pool, {"a": ["nothing"], "b": ["kill"], "c": ["nothing"]}, tmp_path)
        os.close(file)
        assert last["a"].message.figures["pid"] == first
        assert last["c"].message.state == "completed"
        assert len(pool.workers) == 1
        other = os.open(tmp_path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):  # the process holds it
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        pool.close()
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_more_processes_begin_when_more_are_wanted(tmp_path):
    pool = Pool(1, "trivial:run", grace=5)
    pool.start()
    try:
        pool.set_up(2, path=PATH, log=tmp_path / "workers.log", lock=None)
        last = ended(pool, {"a": ["sleep", 0.5], "b": ["sleep", 0.5]}, tmp_path)
        assert len({event.message.figures["pid"] for event in last.values()}) == 2
    finally:
        pool.close()


def test_close_leaves_no_process(open_pool):
    pool = open_pool(2)
    processes = [worker.process for worker in pool.workers]
    pool.close()
    assert all(process.poll() is not None for process in processes)


def test_each_process_has_its_variables(open_pool, tmp_path):
    pool = open_pool(2, environments=[{"CUDA_VISIBLE_DEVICES": "3"}, {"CUDA_VISIBLE_DEVICES": "5"}])
    while len(pool.idle) < 2:  # before a process is ready its environment may not be there yet
        list(pool.events(0.1))
    seen = [Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0") for worker in pool.workers]
    assert [b"CUDA_VISIBLE_DEVICES=3" in seen[0], b"CUDA_VISIBLE_DEVICES=5" in seen[1]] == [True, True]


def test_a_memory_that_was_full_is_named(open_pool, tmp_path, monkeypatch):
    kills = iter([4, 5])
    monkeypatch.setattr("rlx.sweep.pool.pool.memory_kills", lambda: next(kills))
    pool = open_pool(_memory_kills=next(kills))
    assert ended(pool, {"a": ["kill"]}, tmp_path)["a"].reason.startswith("out of memory")


def test_a_worker_ends_when_its_sweep_is_gone(tmp_path):
    import subprocess
    import sys

    code = "\n".join(
        (
            "import pathlib, time",
            "from rlx.record.directory import _birth",
            "from rlx.sweep.pool.worker import Assignment",
            "from rlx.sweep.pool.pool import Pool",
            f"pool = Pool(1, 'trivial:run', {PATH!r}, pathlib.Path({str(tmp_path / 'log')!r}), grace=2)",
            "pool.start()",
            "while not pool.idle: list(pool.events(0.1))",
            f"pool.idle[0].assign(Assignment('a', {str(tmp_path / 'a')!r}, ['sleep', 60]))",
            "pid = pool.workers[0].process.pid",
            "print(pid, _birth(pid), flush=True)",
            "time.sleep(60)",
        )
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid, birth = parent.stdout.readline().split()
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    from rlx.record.directory import this_process

    worker = {**this_process(), "pid": int(pid), "birth": birth}
    until = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not is_alive(worker)
    assert os.path.exists(tmp_path / "a" / "job.log")
