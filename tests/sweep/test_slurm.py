"""A sweep on a real Slurm of one node: it runs through, a signalled job goes on from its checkpoint, a killed one is noticed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlx.record.files import read_metrics
from rlx.record.run import read_run
from tests.sweep import one_node_slurm
from tests.training.conftest import SMALL

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(not one_node_slurm.is_installed(), reason="needs root, slurm-wlm and munge"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    place = tmp_path_factory.mktemp("slurm")
    yield one_node_slurm.start(place)
    one_node_slurm.stop(place)


@pytest.fixture
def begin(slurm, tmp_path, monkeypatch):
    """Starts a sweep on Slurm, of real trainings that take a second a step."""
    monkeypatch.setenv("SLURM_CONF", slurm)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "patient.py").write_text(
        "import time\nfrom dataclasses import dataclass\nfrom rlx.algorithm.custom_dpo import CustomDpo\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Patient(CustomDpo):\n    seconds: float = 1.0\n\n"
        "    def draw(self, lab):\n        time.sleep(self.seconds)\n        return super().draw(lab)\n"
    )
    command = [sys.executable, "-m", "rlx", "-m", "hydra/launcher=submitit_slurm", *SMALL, "checkpoint.every=1"]
    command += ["sweep.name=on_slurm", "sweep.compare=false"]
    started = []

    def start(*arguments):
        with open(tmp_path / "out", "w") as log:
            started.append(subprocess.Popen([*command, *arguments], cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def plan(tmp_path):
    return json.loads((tmp_path / "outputs" / "sweep" / "on_slurm" / "sweep.json").read_text())


def job_directories(tmp_path):
    return [tmp_path / "outputs" / "sweep" / "on_slurm" / job["name"] for job in plan(tmp_path)["jobs"]]


def wait_for_steps(tmp_path, count):
    """Until every job has made so many steps."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        time.sleep(0.5)
        try:
            if all(read_metrics(directory)[-1]["step"] >= count for directory in job_directories(tmp_path)):
                return
        except Exception:  # nothing is there yet
            continue
    pytest.fail((tmp_path / "out").read_text())


def ids(tmp_path):
    orders = tmp_path / "outputs" / "sweep" / "on_slurm" / ".orders"
    return [(orders / f"{directory.name}.slurm").read_text() for directory in job_directories(tmp_path)]


def test_jobs_that_are_signalled_or_requeued_go_on_from_their_checkpoints(begin, tmp_path):
    process = begin("algorithm=patient.Patient", "seed=0,1", "num_steps=12")
    wait_for_steps(tmp_path, 3)
    first, second = ids(tmp_path)
    (tmp_path / "patient.py").write_text((tmp_path / "patient.py").read_text() + "\n# edited meanwhile\n")
    subprocess.run(["scancel", "--signal=USR2", first], check=True)  # as Slurm does before the time limit
    subprocess.run(["scontrol", "requeue", second], check=True)
    assert process.wait(300) == 0, (tmp_path / "out").read_text()
    assert [job["state"] for job in plan(tmp_path)["jobs"]] == ["completed", "completed"]
    for directory in job_directories(tmp_path):
        record = read_run(directory)
        assert len(record.resumed) == 1
        assert record.resumed[0]["step"] >= 3
        assert [line["step"] for line in read_metrics(directory)] == list(range(13))
        assert "edited meanwhile" not in (directory / "sources" / "patient.py").read_text()


def test_a_job_killed_hard_is_noticed_without_accounting(begin, tmp_path):
    process = begin("algorithm=patient.Patient", "seed=0,1", "num_steps=10", "algorithm.seconds=2")
    wait_for_steps(tmp_path, 1)
    killed, _ = job_directories(tmp_path)
    os.kill(read_run(killed).process["pid"], signal.SIGKILL)
    assert process.wait(300) == 3
    lost, other = plan(tmp_path)["jobs"]
    assert (lost["state"], other["state"]) == ("failed", "completed")
    assert "lost" in lost["reason"]
    assert read_run(killed).status == "failed"
    again = begin("algorithm=patient.Patient", "seed=0,1", "num_steps=10", "algorithm.seconds=2")
    assert again.wait(300) == 0, (tmp_path / "out").read_text()
    assert [line["step"] for line in read_metrics(killed)] == list(range(11))


def test_a_sweep_that_was_killed_waits_for_the_jobs_that_outlived_it_and_begins_none_twice(begin, tmp_path):
    jobs = ("algorithm=patient.Patient", "algorithm.seconds=3", "seed=range(0,6)", "num_steps=12", "sweep.grace=1")
    process = begin(*jobs)
    until = time.monotonic() + 200
    while not list((tmp_path / "outputs").rglob("metrics.jsonl")) and time.monotonic() < until:
        time.sleep(0.2)
    process.kill()
    process.wait()
    assert begin(*jobs).wait(400) == 0, (tmp_path / "out").read_text()
    assert "of an earlier start" in (tmp_path / "out").read_text()
    records = [read_run(directory) for directory in job_directories(tmp_path)]
    assert [record.status for record in records] == ["completed"] * 6
    assert all(not record.resumed for record in records)


def test_a_sweep_that_is_stopped_leaves_nothing_in_the_queue(begin, tmp_path):
    process = begin("algorithm=patient.Patient", "seed=0,1", "num_steps=40")
    wait_for_steps(tmp_path, 1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(200) == 75
    assert {job["state"] for job in plan(tmp_path)["jobs"]} == {"interrupted"}
    time.sleep(12)  # a requeued job would be back by now
    left = subprocess.run(["squeue", "-h", "-t", "PD,R"], capture_output=True, text=True, check=True)
    assert left.stdout == ""


def test_an_array_of_runs_as_in_the_readme(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm)
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("# @package _global_\nnum_steps: 1\nlogger: {}\n")
    small = " ".join(f"'{word}'" for word in SMALL if not word.startswith(("num_steps", "logger")))
    script = tmp_path / "array.sh"
    command = f"{sys.executable} -m rlx train --config-dir conf experiment=mine seed=$SLURM_ARRAY_TASK_ID"
    script.write_text(
        f"#!/bin/bash\n#SBATCH --array=0-1\n#SBATCH --chdir={tmp_path}\n{command} {small} output_dir={tmp_path}/runs\n"
    )
    subprocess.run(["sbatch", "--wait", str(script)], check=True, timeout=200, cwd=tmp_path, capture_output=True)
    seeds = {read_run(file.parent).seed for file in Path(tmp_path / "runs").rglob("run.json") if "latest" not in file.parts}
    assert seeds == {0, 1}
