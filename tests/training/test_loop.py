import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlx.training.checkpoint import checkpoint_steps
from rlx.training.loop import Loop, TrainingPlan
from tests.training.conftest import SMALL, metrics, record, reproducible

pytestmark = pytest.mark.whole

ROOT = Path(__file__).parents[2]


def plan(**changes):
    length = {"seed": 0, "num_steps": 10, "eval_every": 4, "micro_batch": None, "stop_at_score": None, "max_seconds": None}
    kept = {"checkpoint_every": 3, "keep_last": 1, "keep_best": False, "halves": False}
    return TrainingPlan(**{**length, **kept, **changes})


def test_when_a_run_is_evaluated_and_checkpointed():
    assert [step for step in range(11) if plan().evaluates_at(step)] == [0, 4, 8, 10]
    assert [step for step in range(11) if plan(eval_every=None).evaluates_at(step)] == [0, 10]
    assert [step for step in range(11) if plan().checkpoints_at(step)] == [0, 3, 6, 9, 10]
    assert [step for step in range(11) if plan(checkpoint_every=None).checkpoints_at(step)] == [10]


def test_a_resumed_run_has_not_reached_a_score_before_it_is_evaluated():
    """Scores may be negative: rewards that only punish."""
    loop = SimpleNamespace(plan=plan(stop_at_score=-2.0), progress=SimpleNamespace(step=5), _is_late=False)
    assert not Loop._finished(loop, {})
    assert not Loop._finished(loop, {"eval/score": -2.5})
    assert Loop._finished(loop, {"eval/score": -1.5})


def begin(directory, *words):
    environment = {**os.environ, "RLX_CACHE": str(directory / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "rlx", "train", *words]
    return subprocess.Popen(command, cwd=directory, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start(directory):
    return begin(directory, *SMALL, "num_steps=60", "eval_every=null", "checkpoint.keep_best=false")


def wait_for_steps(directory, count, process):
    """The run directory, once it has logged `count` lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        for file in (directory / "outputs" / "train").glob("2*/metrics.jsonl"):
            if file.read_bytes().count(b"\n") >= count:
                return file.parent
        time.sleep(0.02)
    raise AssertionError(f"no {count} steps; it printed: {process.communicate()[0]}")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    process = start(directory)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    (run,) = (directory / "outputs" / "train").glob("2*")
    return reproducible(run)


def test_a_run_that_is_killed_twice_resumes_to_the_metrics_of_the_unbroken_one(tmp_path, unbroken):
    process = start(tmp_path)
    for steps in (7, 30):
        run = wait_for_steps(tmp_path, steps, process)
        process.kill()
        process.communicate()
        process = begin(tmp_path, f"resume={run}")
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    assert reproducible(run) == unbroken
    assert record(run)["status"] == "completed"
    assert len(record(run)["resumed"]) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_ends_a_run_with_a_checkpoint_of_its_last_step(tmp_path, number, code):
    process = start(tmp_path)
    run = wait_for_steps(tmp_path, 5, process)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert f"resume={run.relative_to(tmp_path)}" in printed.replace("./", "")
    assert record(run)["status"] == "interrupted"
    assert checkpoint_steps(run)[-1] == metrics(run)[-1]["step"]
