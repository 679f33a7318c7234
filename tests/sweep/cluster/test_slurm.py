"""Slurm as its commands tell of it."""

import stat

import pytest

from rlx.sweep.cluster import slurm as cluster


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that say what they are told to and note how they were called."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")

    def says(name, text, code=0):
        file = commands / name
        file.write_text(f"#!/bin/sh\necho {name} \"$@\" >> {tmp_path}/calls\nprintf '{text}'\nexit {code}\n")
        file.chmod(file.stat().st_mode | stat.S_IEXEC)

    says.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return says


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep whose array 12 has two jobs."""
    for name in ("12_0", "12_1", "not-a-job"):
        (tmp_path / "sweep" / ".submitit" / name).mkdir(parents=True)
    (tmp_path / "sweep" / ".submitit" / "12_0" / "12_submission.sh").touch()
    return tmp_path / "sweep"


def test_the_jobs_of_a_sweep(sweep, tmp_path):
    assert cluster.job_ids(sweep) == ["12"]
    assert cluster.is_used(sweep)
    assert cluster.job_ids(tmp_path) == []
    assert not cluster.is_used(tmp_path)


def test_the_queue_is_asked(slurm, sweep):
    slurm("squeue", "12_1\\n7\\n112_0\\n")
    queue = cluster.queue()
    assert queue == {"12_1", "7", "112_0"}
    assert cluster.is_queued(sweep, queue, "12_1")
    assert not cluster.is_queued(sweep, queue, "12_0")
    assert cluster.is_queued(sweep, queue)  # of a job whose id is not known yet: any of the sweep's
    assert not cluster.is_queued(sweep, {"112_0", "7"})
    assert cluster.is_queued(sweep, None, "12_0")  # nobody knows
    cluster.queue("RUNNING")
    assert slurm.calls()[-1] == "squeue -h -r -o %i --me --states=RUNNING"


def test_a_slurm_that_does_not_answer_tells_nothing(slurm):
    slurm("squeue", "slurm_load_jobs error", 1)
    assert cluster.queue() is None


def test_cancel_asks_those_that_run_and_drops_those_that_wait(slurm, sweep):
    slurm("scancel", "")
    cluster.cancel(sweep)
    assert slurm.calls() == ["scancel --full --signal=TERM 12", "scancel --state=PENDING 12"]


def test_requeue_names_the_task_of_the_array(slurm, monkeypatch):
    slurm("scontrol", "")
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.this_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    assert cluster.this_job() == "14"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    assert cluster.this_job() == "12_1"
    assert cluster.requeue("12_1")
    assert slurm.calls() == ["scontrol requeue 12_1"]
    slurm("scontrol", "", 1)
    assert not cluster.requeue("12_1")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # salloc: nobody would run it again
    assert cluster.this_job() is None
