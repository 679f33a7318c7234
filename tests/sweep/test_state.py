"""What sweep.json says, and who is the best."""

import json
import math
from dataclasses import replace

import pytest

from rlx.errors import DataError, TrainingError
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult
from rlx.sweep.state import COMPLETED, FAILED, JobState, SweepState, best, completed_score, variant_scores

FACTS = {"verb": "train", "command": ["rlx"], "config": {"num_steps": 1}, "config_yaml": "", "overrides": []}


def job(variant, seed, score=None, state=COMPLETED):
    name = f"{variant}-{seed}"
    overrides = [f"x={variant}", f"seed={seed}"]
    return JobState(name, variant, seed, overrides, config_hash=name, state=state, score=score)


def test_the_best_is_over_seeds_not_the_lucky_one():
    found = best([job("a", 0, 0.9), job("a", 1, 0.1), job("b", 0, 0.6), job("b", 1, 0.6)])
    assert (found["variant"], found["score"], found["seeds"], found["overrides"]) == ("b", 0.6, [0, 1], ["x=b"])


def test_a_variant_with_a_failed_seed_or_no_number_is_not_the_best():
    jobs = [job("a", 0, 0.9), job("a", 1, state=FAILED), job("b", 0, math.nan), job("c", 0, 0.1)]
    assert variant_scores(jobs) == {"c": [0.1]}
    assert best(jobs)["variant"] == "c"
    assert best([job("a", 0, state=FAILED)]) is None


def test_it_is_written_whole_and_read_back(tmp_path):
    state = SweepState(tmp_path, {"digest": "d"}, {"b-0": job("b", 0, math.nan)})
    state.write(force=True)
    text = (tmp_path / "sweep.json").read_text()
    assert "NaN" not in text.replace('"NaN"', "")
    (line,) = json.loads(text)["jobs"]
    again = JobState.of_plan(line)
    assert math.isnan(again.score)
    assert again.overrides == ["x=b", "seed=0"]
    assert JobState.of_plan({**line, "of_a_later_version": 1}).name == "b-0"


def test_it_is_not_written_at_every_step_of_a_thousand_jobs(tmp_path):
    state = SweepState(tmp_path, {}, {}, every=60)
    state.write(force=True)
    (tmp_path / "sweep.json").unlink()
    state.write()
    assert not (tmp_path / "sweep.json").exists()


def test_an_earlier_start_is_taken_over_by_what_the_records_say(tmp_path):
    recorder = Recorder.create(tmp_path / "a-0", **FACTS, algorithm="dpo", task="arithmetic", seed=0)
    recorder.finish(AlgorithmResult("dpo", {"eval/score": 0.25}, 1.0, metadata={"tokens_trained": 7}))
    before = SweepState(tmp_path, {"started": "then"}, {"a-0": job("a", 0, state="running"), "a-1": job("a", 1, 0.9)})
    before.jobs["a-0"].attempts = 3
    before.write(force=True)
    state = SweepState(tmp_path, {"started": "now"}, {name: job("a", int(name[-1]), state="waiting") for name in ("a-0", "a-1")})
    state.jobs["a-0"].config_hash = recorder.record.config_hash
    state.take_over(json.loads((tmp_path / "sweep.json").read_text()))
    assert (state.jobs["a-0"].state, state.jobs["a-0"].score, state.jobs["a-0"].attempts) == (COMPLETED, 0.25, 3)
    assert state.jobs["a-1"].state == "waiting"  # whatever the plan says, there is no completed record
    assert state.facts["started"] == "then"
    assert completed_score(tmp_path, state.jobs["a-0"])["cost/tokens_trained"] == 7


@pytest.mark.parametrize("changed", [{"config_hash": "x"}, {"seed": 1}, {"score": 0.75}])
def test_a_record_that_is_not_the_jobs_is_not_taken_over(tmp_path, changed):
    recorder = Recorder.create(tmp_path / "a-0", **FACTS, algorithm="dpo", task="arithmetic", seed=0)
    recorder.log(1, {"eval/score": changed.get("score", 0.25)})
    recorder.finish(AlgorithmResult("dpo", {"eval/score": 0.25}, 1.0))
    planned = {"config_hash": recorder.record.config_hash, "seed": 0, **{key: changed[key] for key in changed if key != "score"}}
    with pytest.raises(DataError, match=f"{'eval/score' if 'score' in changed else next(iter(changed))} is .* in run.json"):
        completed_score(tmp_path, replace(job("a", 0), **planned))


def test_a_sweep_that_cannot_go_on_says_so(tmp_path, monkeypatch):
    state = SweepState(tmp_path, {"status": "running"})
    state.jobs = {"a": JobState("a", "v", 0, [], "h", state="running"), "b": JobState("b", "v", 1, [], "h")}
    state.give_up("the disk is full")
    plan = json.loads((tmp_path / "sweep.json").read_text())
    assert (plan["status"], plan["error"]) == ("interrupted", "the disk is full")
    assert [job["state"] for job in plan["jobs"]] == ["interrupted", "waiting"]

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlx.sweep.state.write_atomic", full)
    with pytest.raises(TrainingError, match=r"cannot write .*sweep\.json: the disk is full"):
        state.write(force=True)
    state.give_up("the disk is full")
