"""Runs completed elsewhere are taken over when config and code are the same, and only then."""

import json
import os

import pytest

from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult, read_run
from rlx.sweep.resume import take_over_completed
from rlx.sweep.state import JobState, SweepState

FACTS = {"verb": "train", "command": ["rlx"], "config_yaml": "seed: 0\n", "overrides": [], "algorithm": "dpo", "task": "a"}


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    os.utime(tmp_path / "pairs.jsonl", (1, 1))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_text("")
    for path in (tmp_path / "model" / "weights", tmp_path / "model"):
        os.utime(path, (1, 1))
    places = {"task": {"path": str(tmp_path / "pairs.jsonl")}, "policy": {"path": str(tmp_path / "model")}}
    config = {"num_steps": 1, "seed": 0, **places}
    recorder = Recorder.create(tmp_path / "outputs" / "train" / "old", **FACTS, config=config, seed=0)
    recorder.log(0, {"eval/score": 0.5})
    recorder.answers(0, (1.0, 0.0))
    (recorder.directory / "checkpoint").mkdir()
    recorder.finish(AlgorithmResult("dpo", {"eval/score": 0.75}, 1.0))
    return recorder


def state_of(tmp_path, config_hash):
    place = tmp_path / "outputs" / "sweep" / "new"
    place.mkdir(parents=True)
    return SweepState(place, {}, {"job": JobState("job", "v", 0, [], config_hash)})


def test_the_record_is_copied_without_the_checkpoint(tmp_path, elsewhere):
    state = state_of(tmp_path, elsewhere.record.config_hash)
    take_over_completed(state, tmp_path / "outputs")
    job = state.jobs["job"]
    assert (job.state, job.score, job.reused_from) == ("completed", 0.75, str(elsewhere.directory))
    assert read_run(state.directory / "job").status == "completed"
    kept = ["answers.jsonl", "config.yaml", "metrics.jsonl", "run.json"]
    assert sorted(file.name for file in (state.directory / "job").iterdir()) == kept
    assert json.loads((state.directory / "sweep.json").read_text())["jobs"][0]["state"] == "completed"


@pytest.mark.parametrize("what", ["config", "code", "status", "data", "weights", "started", "path"])
def test_another_config_code_or_data_or_an_unfinished_run_is_not(tmp_path, elsewhere, what):
    file = elsewhere.directory / "run.json"
    content = json.loads(file.read_text())
    if what == "code":
        content["provenance"]["rlx"]["code"] = "another"
    if what == "status":
        content["status"] = "failed"
    if what == "started":  # damage, as the next: nothing can be told of its files
        content["started"] = "2026-13-45"
    if what == "path":
        content["config"]["task"]["path"] = "x" * 300
    if what == "data":
        (tmp_path / "pairs.jsonl").write_text("{}\n{}\n")
        os.utime(tmp_path / "pairs.jsonl", (2e9, 2e9))
    if what == "weights":
        os.utime(tmp_path / "model" / "weights", (2e9, 2e9))
    file.write_text(json.dumps(content))
    state = state_of(tmp_path, "x" * 16 if what == "config" else elsewhere.record.config_hash)
    take_over_completed(state, tmp_path / "outputs")
    assert state.jobs["job"].state == "waiting"
