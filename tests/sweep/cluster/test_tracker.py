"""What became of jobs that a launcher ran, as it can be seen from outside."""

import json

import pytest

from rlx.record.directory import this_process
from rlx.sweep.cluster import slurm as cluster
from rlx.sweep.cluster.job_files import STOP, JobTracker
from rlx.sweep.pool.worker import Assignment, Done
from rlx.sweep.state import JobState, SweepState
from tests.sweep.pool.test_runner import Seen

DEAD = json.dumps({**this_process(), "pid": 1, "birth": "0"})


@pytest.fixture
def tracker(tmp_path):
    made = JobTracker(
        SweepState(tmp_path, {}, {name: JobState(name, "v", 0, [], name, state="running") for name in "abc"}), Seen()
    )
    for name in "abc":
        made.files.assign(Assignment(name, str(tmp_path / name), None))
    return made


def test_a_job_that_ended_without_a_word_was_lost(tracker, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    job = tracker.state.jobs["a"]
    assert tracker.process(job) is None
    tracker.settle(job)
    assert (job.state, "lost" in job.reason) == ("failed", True)


def test_a_job_that_died_has_a_better_reason_than_what_its_launcher_says(tracker, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    tracker.settle(tracker.state.jobs["a"], problem="UncompletedJobError: no output")
    assert "lost" in tracker.state.jobs["a"].reason


def test_a_launchers_complaint_is_the_reason_unless_the_job_gave_one(tracker):
    a, b, _ = tracker.state.jobs.values()
    tracker.files.end("a", Done("failed", reason="boom"))
    tracker.settle(a, problem="the launcher broke")
    tracker.settle(b, problem="the launcher broke")
    assert (a.reason, b.reason) == ("boom", "the launcher broke")


def test_a_job_that_is_stopped_waits_if_it_had_not_begun(tracker, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    a, b, _ = tracker.state.jobs.values()
    tracker.files.raise_flag(STOP)
    for job in (a, b):
        tracker.settle(job)
    assert (a.state, b.state) == ("interrupted", "waiting")


def test_a_job_that_stops_before_the_others_is_not_a_failed_one(tracker, tmp_path):
    (tmp_path / ".orders" / "a.process").write_text(DEAD)
    tracker.files.raise_flag(STOP)
    tracker.files.end("a", Done("interrupted", reason="stopped by SIGTERM"))
    job = tracker.state.jobs["a"]
    tracker.refresh(job)  # as the watcher does while the sweep waits for the others
    assert job.state == "interrupted"


def test_after_a_failure_the_rest_waits_where_no_job_shall_begin(tracker):
    a, b, _ = tracker.state.jobs.values()
    tracker.halts = True
    tracker.files.end("a", Done("failed", reason="boom"))
    tracker.refresh(a)
    tracker.settle(b)
    assert (a.state, b.state) == ("failed", "waiting")


def test_jobs_of_a_cluster_that_an_earlier_start_began_are_known_by_their_ids(tracker, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "is_used", lambda directory: True)
    monkeypatch.setattr(cluster, "cancel_pending", asked.append)
    monkeypatch.setattr(cluster, "queue", lambda states="": {"12_0", "12_1"})
    for place, name in enumerate("abc"):
        (tmp_path / ".orders" / f"{name}.slurm").write_text(f"12_{place}")
    tracker.files.end("b", Done("completed"))
    jobs = list(tracker.state.jobs.values())
    assert [job.name for job in tracker.left_running(jobs)] == ["a"]
    assert asked == [tmp_path]
