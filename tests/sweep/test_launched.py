"""A job in a launcher's process: it runs the copy of the user's code; a job of a cluster that is signalled is not over."""

import json
import os
import pickle
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rlx.sweep import launched
from rlx.sweep.launched import ORDERS, STOP, LaunchedJob, StopLauncher, forget_modules
from rlx.sweep.messages import Done, Order


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
    (tmp_path / ORDERS).mkdir()
    (tmp_path / ORDERS / "a.pickle").write_bytes(pickle.dumps(Order("a", str(tmp_path / "a"), None)))

    def call(done, parent=0):
        monkeypatch.setattr("rlx.sweep.job.run", lambda order, channel: done)
        return LaunchedJob(str(tmp_path), (), parent, "host")(None)

    return call


def said(tmp_path):
    return json.loads((tmp_path / ORDERS / "a.json").read_text())


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
    monkeypatch.setattr(launched.cluster, "requeue", asked.append)
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit):
        job(Done("interrupted", reason="stopped by SIGUSR2 after step 3"))
    assert asked == ["14"]
    assert (tmp_path / ORDERS / "a.slurm").read_text() == "14"
    assert not (tmp_path / ORDERS / "a.json").exists()


def test_a_sweep_that_was_stopped_requeues_nothing(job, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "14")
    monkeypatch.setattr(launched.cluster, "requeue", pytest.fail)
    (tmp_path / ORDERS / STOP).touch()
    assert job(Done("interrupted", reason="stopped by SIGTERM after step 3")) == "interrupted"
    assert said(tmp_path)["state"] == "interrupted"


def test_the_sweeps_copy_is_imported_not_the_edited_file(tmp_path):
    for folder, value in (("now", 2), ("sweep/sources", 1)):
        (tmp_path / folder / "idea").mkdir(parents=True)
        (tmp_path / folder / "idea" / "__init__.py").write_text(f"value = {value}\n")
        (tmp_path / folder / "idea" / "part.py").write_text(f"value = {value}\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'now')!r}); import idea.part\n"
        "from pathlib import Path; from rlx.sweep.launched import forget_modules\n"
        f"folder = Path({str(tmp_path / 'sweep' / 'sources')!r}); sys.path.insert(0, str(folder)); forget_modules(folder)\n"
        "import idea, idea.part; print(idea.value, idea.part.value)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"
    forget_modules(tmp_path / "none")
    assert signal.getsignal(signal.SIGTERM) is not None
