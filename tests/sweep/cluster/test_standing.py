"""What became of jobs that a launcher ran, as it can be seen from outside."""

import json

import pytest

from rlx.record.process import this_process
from rlx.sweep.cluster import slurm as cluster
from rlx.sweep.cluster.standing import Standing
from rlx.sweep.pool.messages import Done, Order
from rlx.sweep.state import JobState, SweepState
from tests.sweep.pool.test_runner import Seen

DEAD = json.dumps({**this_process(), "pid": 1, "birth": "0"})


@pytest.fixture
def standing(tmp_path):
    made = Standing(SweepState(tmp_path, {}, {name: JobState(name, "v", 0, [], name, state="running") for name in "abc"}), Seen())
    for name in "abc":
        made.orders.give(Order(name, str(tmp_path / name), None))
    return made


def test_a_job_that_ended_without_a_word_was_lost(standing, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    job = standing.state.jobs["a"]
    assert standing.process(job) is None
    standing.settle(job)
    assert (job.state, "lost" in job.reason) == ("failed", True)


def test_a_job_that_died_has_a_better_reason_than_what_its_launcher_says(standing, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    standing.settle(standing.state.jobs["a"], problem="UncompletedJobError: no output")
    assert "lost" in standing.state.jobs["a"].reason


def test_a_launchers_complaint_is_the_reason_unless_the_job_gave_one(standing):
    a, b, _ = standing.state.jobs.values()
    standing.orders.end("a", Done("failed", reason="boom"))
    standing.settle(a, problem="the launcher broke")
    standing.settle(b, problem="the launcher broke")
    assert (a.reason, b.reason) == ("boom", "the launcher broke")


def test_a_job_that_is_stopped_waits_if_it_had_not_begun(standing, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    a, b, _ = standing.state.jobs.values()
    for job in (a, b):
        standing.settle(job, is_stopping=True)
    assert (a.state, b.state) == ("interrupted", "waiting")


def test_after_a_failure_the_rest_waits_where_no_job_shall_begin(standing):
    a, b, _ = standing.state.jobs.values()
    standing.halts = True
    standing.orders.end("a", Done("failed", reason="boom"))
    standing.look(a)
    standing.settle(b)
    assert (a.state, b.state) == ("failed", "waiting")


def test_jobs_of_a_cluster_that_an_earlier_start_began_are_known_by_their_ids(standing, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "is_used", lambda directory: True)
    monkeypatch.setattr(cluster, "cancel_pending", asked.append)
    monkeypatch.setattr(cluster, "queue", lambda states="": {"12_0", "12_1"})
    for place, name in enumerate("abc"):
        (tmp_path / ".orders" / f"{name}.slurm").write_text(f"12_{place}")
    standing.orders.end("b", Done("completed"))
    jobs = list(standing.state.jobs.values())
    assert [job.name for job in standing.left_running(jobs)] == ["a"]
    assert asked == [tmp_path]
