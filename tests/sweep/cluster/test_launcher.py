"""Jobs run by a launcher of Hydra: what became of them is read from what they left, whatever the launcher says."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlx.record.directory import this_process
from rlx.record.provenance import config_hash
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, read_run
from rlx.sweep.cluster import slurm as cluster
from rlx.sweep.cluster.job_files import STOP
from rlx.sweep.cluster.launcher import LauncherRunner
from rlx.sweep.state import JobState, SweepState
from tests.sweep.pool.test_runner import Seen
from tests.sweep.search.test_study import settings

FACTS = {"verb": "train", "command": ["rlx"], "config": {"num_steps": 3}, "config_yaml": "", "overrides": [], "seed": 0}


@pytest.fixture
def delegate(tmp_path):
    def make(launch, names=("a", "b"), **changes):
        of_all = config_hash(FACTS["config"])
        jobs = {name: JobState(name, "v", 0, [f"x={name}"], of_all, num_steps=3) for name in names}
        return LauncherRunner(SweepState(tmp_path, {}, jobs), settings(**changes), Seen(), launch, lambda job: None, [])

    return make


def names_of(overrides):
    return [words[-1].partition("=")[2] for words in overrides]


def complete(directory):
    recorder = Recorder.create(directory, **FACTS, algorithm="dpo", task="a")
    recorder.finish(AlgorithmResult("dpo", {"eval/score": 0.5}, 1.0))


def states(made):
    return {name: job.state for name, job in made.state.jobs.items()}


def test_a_launcher_that_breaks_does_not_lose_what_is_done(delegate, tmp_path):
    def launch(task, overrides):
        assert overrides == [["x=a", "hydra.sweep.subdir=a"], ["x=b", "hydra.sweep.subdir=b"]]
        complete(tmp_path / "a")
        raise RuntimeError("worker crashed")

    made = delegate(launch)
    made.run(list(made.state.jobs.values()))
    assert states(made) == {"a": "completed", "b": "failed"}
    assert made.state.jobs["a"].score == 0.5
    assert made.state.jobs["b"].reason == "RuntimeError: worker crashed"
    assert json.loads((tmp_path / "sweep.json").read_text())["jobs"][1]["state"] == "failed"


def test_a_job_says_itself_why_it_failed(delegate, tmp_path):
    def launch(task, overrides):
        for name in names_of(overrides):
            (tmp_path / ".orders" / f"{name}.json").write_text(json.dumps({"state": "failed", "reason": f"boom of {name}"}))

    made = delegate(launch)
    made.run(list(made.state.jobs.values()))
    assert [job.reason for job in made.state.jobs.values()] == ["boom of a", "boom of b"]


def test_only_what_failed_is_launched_again(delegate, tmp_path):
    launched = []

    def launch(task, overrides):
        launched.append(names_of(overrides))
        complete(tmp_path / launched[-1][0])

    made = delegate(launch, retries=3)
    made.run(list(made.state.jobs.values()))
    assert launched == [["a", "b"], ["b"]]
    assert states(made) == {"a": "completed", "b": "completed"}


def begun_by(process):
    """What a job writes that has begun in a process."""
    birth = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
    return json.dumps({**this_process(), "pid": process.pid, "birth": birth})


def sleeping():
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def complete_and_end(directory, process):
    """What a job does that ends well in a process of its own."""
    complete(directory)
    process.kill()


@pytest.mark.whole
def test_a_launcher_that_breaks_on_one_job_is_waited_out_and_what_it_had_not_begun_is_launched_again(delegate, tmp_path):
    launched, others = [], []

    def launch(task, overrides):
        launched.append(names_of(overrides))
        if len(launched) == 1:
            (tmp_path / ".orders" / "a.process").write_text(json.dumps({**this_process(), "pid": 1, "birth": "0"}))
            others.append(sleeping())
            (tmp_path / ".orders" / "b.process").write_text(begun_by(others[0]))
            threading.Timer(2, complete_and_end, (tmp_path / "b", others[0])).start()
            raise RuntimeError("a worker was killed")
        for name in launched[-1]:
            complete(tmp_path / name)

    made = delegate(launch, names=("a", "b", "c", "d"))
    made.run(list(made.state.jobs.values()))
    others[0].wait()
    assert launched == [["a", "b", "c", "d"], ["c", "d"]]
    assert states(made) == {"a": "failed", "b": "completed", "c": "completed", "d": "completed"}
    assert "lost" in made.state.jobs["a"].reason
    assert [job.attempts for job in made.state.jobs.values()] == [1, 1, 1, 1]


@pytest.mark.whole
def test_jobs_that_outlived_the_start_that_began_them_are_waited_for(delegate, tmp_path):
    launched = []

    def launch(task, overrides):
        launched.append(names_of(overrides))
        complete(tmp_path / "b")

    (tmp_path / ".orders").mkdir()
    with sleeping() as other:
        (tmp_path / ".orders" / "a.process").write_text(begun_by(other))
        threading.Timer(2, complete_and_end, (tmp_path / "a", other)).start()
        made = delegate(launch)
        made.run(list(made.state.jobs.values()))
    assert launched == [["b"]]
    assert states(made) == {"a": "completed", "b": "completed"}
    assert "1 job of an earlier start" in made.view.notes[0]


def test_after_a_failure_no_job_begins_where_that_is_wanted(delegate, tmp_path):
    def launch(task, overrides):
        (tmp_path / ".orders" / "a.process").write_text(json.dumps(this_process()))
        (tmp_path / ".orders" / "a.json").write_text(json.dumps({"state": "failed", "reason": "boom"}))
        (tmp_path / ".orders" / "halt").touch()  # as the job does

    made = delegate(launch, on_failure="stop")
    made.run(list(made.state.jobs.values()))
    assert states(made) == {"a": "failed", "b": "waiting"}


def test_jobs_that_do_not_stop_are_ended(delegate, tmp_path):
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    others = []

    def launch(task, overrides):
        others.append(subprocess.Popen([sys.executable, "-c", deaf]))
        (tmp_path / ".orders" / "a.process").write_text(begun_by(others[0]))
        threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(30)

    made = delegate(launch, grace=1.0)
    made.run(list(made.state.jobs.values()))
    assert others[0].wait(10) == -signal.SIGKILL
    assert states(made) == {"a": "interrupted", "b": "waiting"}


def test_being_asked_to_stop_asks_the_jobs(delegate, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(cluster, "cancel", asked.append)

    def launch(task, overrides):
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        time.sleep(30)

    made = delegate(launch, grace=2.0)
    before = time.monotonic()
    made.run(list(made.state.jobs.values()))
    assert time.monotonic() - before < 15
    assert made.stop_signal == signal.SIGTERM
    assert asked == [tmp_path]
    assert (tmp_path / ".orders" / STOP).exists()
    assert states(made) == {"a": "waiting", "b": "waiting"}


@pytest.mark.whole
def test_a_job_that_the_cluster_lost_is_noticed_while_the_launcher_waits(delegate, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "is_used", lambda directory: True)
    monkeypatch.setattr(cluster, "PATIENCE", 0.1)
    monkeypatch.setattr("rlx.sweep.cluster.job_files.QUEUE_TICK", 0.1)
    monkeypatch.setattr(cluster, "queue", lambda states="": {"12_1"} if not (tmp_path / "b" / "run.json").exists() else set())

    def launch(task, overrides):
        Recorder.create(tmp_path / "a", **FACTS, algorithm="dpo", task="a")
        for place, name in enumerate(names_of(overrides)):
            (tmp_path / ".orders" / f"{name}.slurm").write_text(f"12_{place}\n")
        time.sleep(4)
        complete(tmp_path / "b")
        (tmp_path / ".orders" / "b.json").write_text(json.dumps({"state": "completed", "reason": ""}))
        time.sleep(60)  # as submitit without accounting does

    made = delegate(launch)
    before, keyboard = time.monotonic(), signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a script
    try:
        made.run(list(made.state.jobs.values()))
    finally:
        signal.signal(signal.SIGINT, keyboard)
    assert time.monotonic() - before < 40
    assert states(made) == {"a": "failed", "b": "completed"}
    assert made.view.told[0] == ("a", "failed")  # while b was still running
    assert "lost" in made.state.jobs["a"].reason
    assert read_run(tmp_path / "a").status == "failed"
    assert made.stop_signal is None
