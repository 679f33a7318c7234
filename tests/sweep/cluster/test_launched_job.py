"""A job in a launcher's process: it runs the copy of the user's code; a job of a cluster that is signalled is not over."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlx.record.directory import this_process
from rlx.sweep.cluster import slurm
from rlx.sweep.cluster.job_files import HALT, STOP
from rlx.sweep.cluster.launcher import LaunchedJob, StopLauncher
from rlx.sweep.pool.worker import Assignment, Done


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Calls a launched job `a` whose training ends as told."""
    monkeypatch.setattr(
        "hydra.core.hydra_config.HydraConfig.get", lambda: SimpleNamespace(runtime=SimpleNamespace(output_dir="x/a"))
    )
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".orders").mkdir()
    (tmp_path / ".orders" / "a.pickle").write_bytes(pickle.dumps(Assignment("a", str(tmp_path / "a"), None)))

    def call(done, parent=0, timeout=None, halts=False):
        (tmp_path / ".orders" / "a.json").unlink(missing_ok=True)
        monkeypatch.setattr("rlx.sweep.job.run", lambda order, channel: done() if callable(done) else done)
        return LaunchedJob(str(tmp_path), (), (), parent, timeout, 0.5, halts)(None)

    return call


def said(tmp_path):
    return json.loads((tmp_path / ".orders" / "a.json").read_text())


def test_how_it_ended_is_written_beside_its_order(job, tmp_path):
    assert job(Done("completed")) == "completed"
    assert said(tmp_path) == {"state": "completed", "reason": ""}
    assert job(Done("failed", reason="boom")) == "failed"
    assert said(tmp_path) == {"state": "failed", "reason": "boom"}


def test_an_interrupt_in_the_process_of_the_sweep_stops_the_launcher(job):
    with pytest.raises(StopLauncher, match="SIGTERM"):
        job(Done("interrupted", reason="stopped by SIGTERM after step 3"), parent=os.getpid())


def test_in_a_job_of_slurm_it_is_requeued_and_says_nothing(job, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    asked = []
    monkeypatch.setattr(slurm, "requeue", asked.append)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        job(Done("interrupted", reason="stopped by SIGUSR2 after step 3"))
    assert asked == ["14"]
    assert (tmp_path / ".orders" / "a.slurm").read_text() == "14"
    assert not (tmp_path / ".orders" / "a.json").exists()


def test_a_sweep_that_was_stopped_requeues_nothing(job, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setattr(slurm, "requeue", pytest.fail)

    def is_stopped():
        (tmp_path / ".orders" / STOP).touch()
        return Done("interrupted", reason="stopped by SIGTERM after step 3")

    assert job(is_stopped) == "interrupted"
    assert said(tmp_path)["state"] == "interrupted"


@pytest.mark.parametrize("word", [STOP, HALT])
def test_a_job_that_comes_late_to_a_sweep_that_ended_does_not_begin(job, tmp_path, word):
    (tmp_path / ".orders" / word).touch()
    assert job(pytest.fail) == "waiting"
    assert not (tmp_path / ".orders" / "a.process").exists()


def test_a_job_that_another_process_works_on_is_left_to_it(job, tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        birth = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        (tmp_path / ".orders" / "a.process").write_text(json.dumps({**this_process(), "pid": other.pid, "birth": birth}))
        assert job(pytest.fail) == "running"
        other.kill()
    assert job(Done("completed")) == "completed"


def test_no_job_begins_after_one_that_failed_where_that_is_wanted(job, tmp_path):
    assert job(Done("failed", reason="boom")) == "failed"
    assert not (tmp_path / ".orders" / HALT).exists()
    assert job(Done("failed", reason="boom"), halts=True) == "failed"
    assert (tmp_path / ".orders" / HALT).exists()


def test_a_job_that_takes_too_long_is_asked_to_stop_and_counts_as_failed(job, tmp_path):
    asked = []

    def slow():
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        time.sleep(0.6)
        return Done("interrupted", reason="stopped by SIGTERM after step 3")

    assert job(slow, timeout=0.2) == "failed"
    assert asked == [1]
    assert said(tmp_path) == {"state": "failed", "reason": "timeout: it took more than 0.2 s (sweep.timeout)"}


@pytest.mark.whole
def test_a_job_that_takes_too_long_and_does_not_stop_is_ended(job, tmp_path, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)

    def deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1.5)
        return Done("completed")

    job(deaf, timeout=0.2)
    assert ended == [1]
    job(deaf, timeout=0.2, parent=os.getpid())  # in the process of the sweep: that goes on
    assert ended == [1]
