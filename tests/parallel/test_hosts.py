"""Ranks on two hosts made of network namespaces: a run over both, the link cut in the middle; and two tasks of a real Slurm."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlx.record.run import read_run
from tests.parallel.group import ROOT
from tests.sweep import one_node_slurm
from tests.training.conftest import SMALL, metrics

TIMEOUT = 30  # parallel.timeout, seconds
# of this process alone, as a test that was killed leaves its own behind
HOSTS = {f"rlx_{name}{os.getpid()}": (f"rv{name}{os.getpid()}", f"10.77.0.{n}") for n, name in enumerate("ab", start=1)}
LONG = ["num_steps=100000", "eval_every=100000", "checkpoint.every=2", f"parallel.timeout={TIMEOUT}"]


def own_environment(place: Path, **named: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RLX_CACHE": str(place / "cache"), **named}


def after_steps(run: Path, steps: int) -> None:
    end = time.monotonic() + 180
    while not (run / "metrics.jsonl").exists() or len(metrics(run)) <= steps:
        assert time.monotonic() < end, "the run does not begin"
        time.sleep(0.2)


@pytest.fixture
def hosts():
    """Two hosts with a cable between them; gives what cuts it."""

    def ip(words: str, *, check: bool = True) -> None:
        subprocess.run(["ip", *words.split()], check=check, capture_output=True)

    names = list(HOSTS)
    (first, _), (second, _) = HOSTS.values()
    try:
        for name in names:
            ip(f"netns add {name}")
        ip(f"link add {first} type veth peer name {second}")
        for name, (device, address) in HOSTS.items():
            ip(f"link set {device} netns {name}")
            ip(f"-n {name} addr add {address}/24 dev {device}")
            ip(f"-n {name} link set lo up")
            ip(f"-n {name} link set {device} up")
        yield lambda: ip(f"-n {names[1]} link set {second} down")
    finally:
        for name in names:
            ip(f"netns del {name}", check=False)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip")
def test_a_run_over_two_hosts_ends_on_both_when_the_link_is_cut_and_goes_on_on_one(hosts, tmp_path):
    run, processes = tmp_path / "run", []
    for rank, (name, (device, _)) in enumerate(HOSTS.items()):
        named = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": device}
        named |= {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29511"}
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "rlx", "train", *SMALL, *LONG, f"hydra.run.dir={run}"]
        processes.append(
            subprocess.Popen(
                command, cwd=tmp_path, env=own_environment(tmp_path, **named), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        )
    after_steps(run, 5)
    hosts()
    start = time.monotonic()
    said = [process.communicate(timeout=5 * TIMEOUT)[0].decode() for process in processes]
    assert time.monotonic() - start < 2 * TIMEOUT
    assert [process.returncode for process in processes] == [1, 1], said
    assert all("the connection to it is lost" in text for text in said)
    assert read_run(run).status == "failed"
    steps = int(next((run / "checkpoint").iterdir()).name.removeprefix("step_")) + 2
    again = [sys.executable, "-m", "rlx", "train", f"resume={run}", f"num_steps={steps}", "ranks=1"]
    subprocess.run(again, cwd=tmp_path, env=own_environment(tmp_path), check=True, timeout=300)
    assert read_run(run).status == "completed"


@pytest.fixture
def slurm(tmp_path):
    """The configuration of a Slurm that runs."""
    yield one_node_slurm.start(tmp_path / "slurm")
    one_node_slurm.stop(tmp_path / "slurm")


needs_slurm = pytest.mark.skipif(not one_node_slurm.is_installed(), reason="needs root, slurm-wlm and munge")


@pytest.mark.slurm
@needs_slurm
def test_two_tasks_of_slurm_are_two_ranks(slurm, tmp_path):
    run = tmp_path / "run"
    task = "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec " + " ".join(
        [f"'{sys.executable}' -m rlx train", *(f"'{word}'" for word in SMALL), "num_steps=2", f"hydra.run.dir={run}"]
    )
    named = {"SLURM_CONF": slurm, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
    named["GLOO_SOCKET_IFNAME"] = "lo"
    command = ["srun", "-n", "2", "--overcommit", "bash", "-c", task]
    subprocess.run(command, cwd=tmp_path, env=own_environment(tmp_path, **named), check=True, timeout=400)
    assert (read_run(run).status, read_run(run).config["ranks"]) == ("completed", 2)


@pytest.mark.slurm
@needs_slurm
@pytest.mark.parametrize("how", ["preempted", "requeued"])
def test_the_script_of_the_guide_goes_on_with_its_own_run(slurm, tmp_path, how):
    page = (ROOT / "rlx" / "guide" / "ranks.md").read_text()
    (tmp_path / "job.sh").write_text("#!/bin/bash" + page.partition("#!/bin/bash")[2].partition("```")[0])
    experiment = tmp_path / "conf" / "experiment" / "mine.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(f"# @package _global_\noutput_dir: {tmp_path}/out\nlogger: {{}}\n")
    words = " ".join(f"'{word}'" for word in [*SMALL, *LONG[1:], "num_steps=60"] if not word.startswith("logger"))
    program = tmp_path / "bin" / "rlx"
    program.parent.mkdir()
    program.write_text(f"#!/bin/bash\nexec '{sys.executable}' -m rlx \"$@\" {words}\n")
    program.chmod(0o755)
    named = {"SLURM_CONF": slurm, "PATH": f"{program.parent}:{os.environ['PATH']}", "GLOO_SOCKET_IFNAME": "lo"}

    def slurm_says(*command: str) -> str:
        variables = own_environment(tmp_path, **named)
        done = subprocess.run(command, cwd=tmp_path, env=variables, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    here = ["--nodes=1", "--ntasks-per-node=2", "--gpus-per-node=0", "--output=said", "--open-mode=append"]
    job = slurm_says("sbatch", "--parsable", *here, "job.sh")
    until = time.monotonic() + 180
    while not (runs := [file.parent for file in tmp_path.glob("out/train/2*/metrics.jsonl")]):
        assert time.monotonic() < until, (tmp_path / "said").read_text()
        time.sleep(0.2)
    after_steps(runs[0], 5)
    if how == "preempted":
        slurm_says("sbatch", "--parsable", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 2")
    else:
        slurm_says("scontrol", "requeue", job)
    while slurm_says("squeue", "-h", "-j", job, "-t", "PD,R,CG"):
        assert time.monotonic() < until + 240, (tmp_path / "said").read_text()
        time.sleep(1)
    record = read_run(runs[0])
    assert (record.status, record.config["ranks"]) == ("completed", 2), (tmp_path / "said").read_text()
    assert len(record.resumed) == 1
    assert [line["step"] for line in metrics(runs[0])] == list(range(61))
    assert len(list(tmp_path.glob("out/train/2*"))) == 1
