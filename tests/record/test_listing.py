"""What a list says of a run is what its record says, also while the run goes on."""

import json
import math
import time
from pathlib import Path

import pytest

from rlx.record.listing import Listed, listed
from rlx.record.recorder import Recorder
from rlx.record.run import AlgorithmResult


def line(run: Recorder, **options: object) -> Listed:
    return listed(run.directory, now=time.time() + 60, **options)


def test_a_run_on_its_way(create) -> None:
    run = create(
        config={"num_steps": 200, "algorithm": {"_target_": "a.b.Dpo", "loss": {"beta": 0.1}}, "list": [1], "bound": math.inf}
    )
    assert (line(run).status, line(run).score, line(run).step, line(run).num_steps) == ("running", None, None, 200)
    run.log(0, {"eval/score": 0.5})
    for step in range(1, 400):
        run.log(step, {f"train/{name}": 0.123456789 for name in "abcdefgh"})
    shown = line(run)
    assert (shown.score, shown.step) == (0.5, 399)  # the score lies far before the end of the file
    assert 55 < shown.age < 120
    assert shown.time == pytest.approx(shown.age)
    assert shown.facts["algorithm.loss.beta"] == 0.1
    assert shown.facts["algorithm"] == "dpo"
    assert shown.facts["train/a"] == 0.123456789
    assert shown.facts["bound"] == math.inf
    run.interrupt()
    assert line(run).time < 5


def test_a_finished_run_is_read_from_its_record_alone(create) -> None:
    run = create()
    run.log(0, {"eval/score": 0.5})
    run.finish(AlgorithmResult("dpo", {"eval/score": math.nan, "eval/kl": 2.0}, 1.0, None, {"steps": 7}))
    (run.directory / "metrics.jsonl").unlink()
    assert math.isnan(line(run).score)
    assert line(run).step == 7
    assert line(run).facts["eval/kl"] == 2.0


def test_damage_takes_a_line_and_not_the_list(create) -> None:
    run = create()
    run.log(0, {"eval/score": 0.5})
    run.interrupt()
    (run.directory / "metrics.jsonl").write_text("x\ny\n")
    assert (line(run).status, line(run).score) == ("interrupted", None)
    (run.directory / "run.json").write_text("{")
    broken = line(run)
    assert (broken.status, broken.score, broken.step, broken.age, broken.sweep) == ("damaged", None, None, None, None)
    assert "run.json" in broken.facts["error"]


def test_a_time_that_is_none_has_no_age(create) -> None:
    run = create()
    run.interrupt()
    values = json.loads((run.directory / "run.json").read_text())
    (run.directory / "run.json").write_text(json.dumps({**values, "started": "yesterday"}))
    assert line(run).age is None
    assert line(run).time is None


def test_names_are_as_people_type_them(create, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = create()
    run.interrupt()
    monkeypatch.chdir(tmp_path)
    assert line(run).name == f"outputs/train/{run.directory.name}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert line(run).name == str(run.directory)


def test_a_job_knows_its_sweep(create, tmp_path: Path) -> None:
    job = create(tmp_path / "mine" / "0")
    job.interrupt()
    assert line(job).sweep is None
    (tmp_path / "mine" / "sweep.json").write_text("{}")
    assert line(job).sweep == "mine"
    other = create(tmp_path / "outputs" / "sweep" / "night" / "0")
    other.interrupt()
    assert line(other).facts["sweep"] == "night"


def test_a_run_that_its_search_gave_up_is_pruned(create) -> None:
    run = create()
    run.interrupt(signal="PRUNED", step=3)
    assert (line(run).status, line(run).state, line(run).facts["state"]) == ("interrupted", "pruned", "pruned")
    other = create()
    other.interrupt(signal="SIGTERM", step=3)
    assert line(other).state == "interrupted"
