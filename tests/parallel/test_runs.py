"""Runs of several ranks from the command line: their ends, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.parallel.group import ROOT
from tests.training.conftest import SMALL, metrics, record

pytestmark = pytest.mark.whole
PATIENCE = 180  # seconds


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def begun(place: Path, name: str, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RLX_CACHE": str(place / "cache")}
    command = [sys.executable, "-m", "rlx", "train", *SMALL, f"hydra.run.dir={name}", *words]
    return subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ranks_of(parent: subprocess.Popen) -> list[int]:
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return [int(number) for number in listed]


def after_steps(run: Path, steps: int) -> None:
    end = time.monotonic() + PATIENCE
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) <= steps:
        assert time.monotonic() < end, "the run does not begin"
        time.sleep(0.1)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize(("number", "code", "to"), [(signal.SIGTERM, 75, "rank 1"), (signal.SIGINT, 130, "the command")])
def test_a_signal_ends_all_after_the_same_step_with_a_checkpoint(place, number, code, to):
    name = f"signal_{number}_{to[-1]}"
    process = begun(
        place, name, "num_steps=100000", "eval_every=100000", "checkpoint.every=null", "ranks=2", "parallel.timeout=60"
    )
    after_steps(place / name, 2)
    ranks = ranks_of(process)
    os.kill(ranks[1] if to == "rank 1" else process.pid, number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, said
    last = metrics(place / name)[-1]["step"]
    assert [path.name for path in (place / name / "checkpoint").iterdir()] == [f"step_{last}"]
    assert record(place / name)["status"] == "interrupted"
    assert said.count("resume with: rlx train resume=") == 1
    assert all(map(is_gone, ranks))


@pytest.mark.parametrize(("rank", "number", "mode"), [(0, signal.SIGSTOP, "replicated"), (1, signal.SIGKILL, "sharded")])
def test_a_rank_that_dies_or_hangs_ends_the_run_and_is_named(place, rank, number, mode):
    name = f"lost_{rank}_{int(number)}"
    long = ["num_steps=100000", "eval_every=100000", "checkpoint.every=2", "parallel.timeout=15"]
    process = begun(place, name, *long, "ranks=2", f"parallel={mode}")
    after_steps(place / name, 4)
    ranks = ranks_of(process)
    os.kill(ranks[rank], number)
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1, said
    assert f"rlx: rank {rank} " in said
    assert all(map(is_gone, ranks))
    from rlx.record.run import read_run

    assert read_run(place / name).status == ("failed" if rank else "interrupted")


def test_nothing_outlives_a_command_that_is_killed(place):
    process = begun(place, "orphans", "num_steps=100000", "eval_every=100000", "ranks=2")
    after_steps(place / "orphans", 1)
    ranks = ranks_of(process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    end = time.monotonic() + 20
    while not all(map(is_gone, ranks)):
        assert time.monotonic() < end
        time.sleep(0.1)
