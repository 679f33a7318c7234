"""A killed job's record says failed; any other keeps its own word."""

import pytest

from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, read_run
from rlx.sweep.state import mark_failed

FACTS = {"verb": "train", "command": ["rlx"], "config": {"num_steps": 1}, "config_yaml": "", "overrides": [], "seed": 0}


@pytest.fixture
def recorder(tmp_path):
    return Recorder.create(tmp_path / "job", **FACTS, algorithm="dpo", task="arithmetic")


def test_a_run_that_could_not_say_how_it_ended(recorder, tmp_path):
    mark_failed(tmp_path / "job", "killed by SIGKILL")
    record = read_run(tmp_path / "job")
    assert (record.status, record.error["message"]) == ("failed", "killed by SIGKILL")
    assert record.ended


def test_a_run_that_said_it_itself(recorder, tmp_path):
    recorder.finish(AlgorithmResult("dpo", {"eval/score": 1.0}, 1.0))
    mark_failed(tmp_path / "job", "late")
    assert read_run(tmp_path / "job").status == "completed"
    mark_failed(tmp_path / "nothing", "no record")
    assert not (tmp_path / "nothing").exists()
