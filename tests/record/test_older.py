"""Records and a sweep of an earlier version: read, compared, evaluated, run again, and resumed or refused with the reason.

`older/` holds what version 0.1.0 of 2026-11-26 wrote, the lines of metrics of the sweep's jobs cut to the first and the last. Its
classes had other names and lay elsewhere, and the run's loss stood in two places.
"""

import json
import shlex
import shutil
from pathlib import Path

import pytest

import rlx
from rlx.cli.main import main
from rlx.record.files import read_metrics
from rlx.record.run import find_runs, read_run

OLDER = Path(__file__).parent / "older"
RUN = next(OLDER.glob("train/*"))
SWEEP = next(OLDER.glob("sweep/*"))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A working directory with the older records in its outputs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLX_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(OLDER, tmp_path / "outputs"))


def test_they_are_read_in_the_form_of_now():
    runs = find_runs(OLDER)
    assert sorted(run.status for run in runs) == ["completed", "completed", "completed", "interrupted"]
    config = read_run(RUN).config
    assert config["loss"] == {"_target_": "rlx.loss.preference.margin.ipo", "beta": 0.2, "modifiers": {}}
    assert "loss" not in config["algorithm"]
    assert config["task"]["rewards"]["exact_match"]["_target_"] == "rlx.task.reward.text.ExactMatch"
    assert read_metrics(RUN)[-1]["eval/score"] == read_run(RUN).score


def test_they_are_compared():
    comparison = rlx.compare([str(OLDER)], allow=["single", "unfinished", "missing", "budget", "tasks"])
    assert len(comparison.variants) == 3


def test_they_are_listed(outputs, capsys):
    assert main(["runs"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("completed") == 4  # three runs, and the heading of the sweep's line
    assert "damaged" not in printed.partition("\n\n")[2]


def test_the_sweep_is_refused_with_the_reason_and_what_to_type(outputs, capsys):
    assert main(["-m", f"resume={outputs / 'sweep' / SWEEP.name}"]) == 2
    said = capsys.readouterr().err
    assert "another version of the code that numbers come from" in said
    assert shlex.join(json.loads((SWEEP / "sweep.json").read_text())["command"]) in said


@pytest.mark.whole
def test_a_run_is_evaluated_sampled_run_again_and_resumed_where_that_is_allowed(outputs, capsys):
    run = outputs / "train" / RUN.name
    cache = f"cache_dir={outputs.parent / 'cache'}"  # that of the record is on the machine it came from
    record = (run / "run.json").read_bytes()
    shutil.rmtree(run)
    # for a checkpoint: the records hold none; they are from before matmul, when torch multiplied
    assert main(["train", *read_run(RUN).overrides, "matmul=torch", f"hydra.run.dir={run}"]) == 0
    (run / "run.json").write_bytes(record)
    assert main(["evaluate", str(run), "evaluation.num_prompts=4"]) == 0
    assert main(["sample", str(run), "prompt=1+1="]) == 0
    capsys.readouterr()
    assert main(["train", f"resume={run}", "num_steps=5", cache]) == 2
    assert "allow_changed=[code]" in capsys.readouterr().err
    assert main(["train", f"resume={run}", "num_steps=5", "allow_changed=[code]", cache]) == 0
    assert [line["step"] for line in read_metrics(run)] == [0, 1, 2, 3, 4, 5]
    assert read_run(run).config["loss"]["_target_"] == "rlx.loss.preference.margin.ipo"
    assert main(["train", f"rerun={run}", cache]) == 0
    assert "agree with" in "".join(capsys.readouterr())
