"""The run that a command has begun already is found by the hash of its config."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from rlx.errors import ConfigError
from rlx.parallel.ranks import ALONE
from rlx.record.directory import SILENT_SECONDS, this_process
from rlx.record.provenance import config_hash
from rlx.record.run import read_run
from rlx.record.unfinished import own_run
from rlx.report.terminal import TrainView

CONFIG = {"seed": 1, "output_dir": "outputs", "resume": None}


def written(shelf: Path, name: str, *, config: dict[str, Any] = CONFIG, status: str = "interrupted", steps: int = 0) -> Path:
    """The record of a run, with a checkpoint of a step above 0."""
    run = shelf / "train" / name
    run.mkdir(parents=True)
    values = {
        **dict.fromkeys(("id", "variant", "task", "algorithm"), "x"),
        "started": name, "config_hash": config_hash(config), "schema_version": 1, "status": status, "verb": "train",
        "command": [], "overrides": [], "sources": [], "provenance": {}, "seed": 1, "threads": 1, "config": config,
        "process": this_process(),
    }  # fmt: skip
    (run / "run.json").write_text(json.dumps(values))
    if steps:
        (run / "checkpoint" / f"step_{steps}").mkdir(parents=True)
    return run


def test_the_newest_of_this_config_that_can_go_on(tmp_path: Path) -> None:
    assert own_run(CONFIG, output_dir=tmp_path) is None
    written(tmp_path, "1", steps=5)
    wanted = written(tmp_path, "2", steps=3, status="failed")
    written(tmp_path, "3")  # no checkpoint
    written(tmp_path, "4", config={**CONFIG, "seed": 2}, steps=7)
    (tmp_path / "train" / "latest").symlink_to("2")
    (tmp_path / "train" / "5").mkdir()
    (tmp_path / "train" / "5" / "run.json").write_text(f'{{"config_hash": "{config_hash(CONFIG)}"')
    found = own_run({**CONFIG, "output_dir": "elsewhere", "resume": "auto"}, output_dir=tmp_path)
    assert found is not None
    assert found.directory == wanted


def test_a_completed_one_and_a_place_of_the_callers_own(tmp_path: Path) -> None:
    written(tmp_path, "1", steps=5)
    done = written(tmp_path, "2", status="completed")
    found = own_run(CONFIG, output_dir=tmp_path)
    assert found is not None
    assert (found.directory, found.status) == (done, "completed")
    beside = written(tmp_path / "mine", "x", steps=1)
    found = own_run(CONFIG, output_dir=tmp_path, directory=beside)
    assert found is not None
    assert found.directory == beside
    assert own_run(CONFIG, output_dir=tmp_path, directory=tmp_path / "new") is None


def test_one_that_is_being_made_is_left_to_its_process(tmp_path: Path) -> None:
    written(tmp_path, "1", status="running", steps=5)
    with pytest.raises(ConfigError, match=r"is the run of this command, and process \d+ on .* is running it"):
        own_run(CONFIG, output_dir=tmp_path)


def elsewhere(run: Path, *, silent: float, beats: bool = True) -> None:
    """The record is written by a process of another machine, whose last sign of life is `silent` seconds old."""
    values = json.loads((run / "run.json").read_text())
    values["process"] = {**this_process(), "host": "another", **({"heartbeat": 20.0} if beats else {})}
    (run / "run.json").write_text(json.dumps(values))
    os.utime(run / "run.json", (time.time() - silent,) * 2)


def test_a_process_of_another_machine_that_is_silent_is_lost(tmp_path: Path) -> None:
    run = written(tmp_path, "1", status="running", steps=5)
    elsewhere(run, silent=SILENT_SECONDS + 1)
    found = own_run(CONFIG, output_dir=tmp_path)
    assert found is not None
    assert (found.directory, found.status) == (run, "interrupted")


def test_a_process_of_another_machine_is_given_time_for_a_sign_of_life(tmp_path, monkeypatch, capsys) -> None:
    run = written(tmp_path, "1", status="running", steps=5)
    naps: list[float] = []
    monkeypatch.setattr("rlx.record.unfinished.time.sleep", naps.append)
    elsewhere(run, silent=SILENT_SECONDS - 5)
    assert read_run(run).status == "running"
    monkeypatch.setattr("rlx.record.directory.time", SimpleNamespace(time=lambda: time.time() + 3 * len(naps)))
    found = own_run(CONFIG, output_dir=tmp_path)
    assert found is not None
    assert found.status == "interrupted"
    assert len(naps) == 2
    assert "checking that for up to 5 minutes" in capsys.readouterr().err
    monkeypatch.setattr("rlx.record.unfinished.time.sleep", lambda _: os.utime(run / "run.json"))
    elsewhere(run, silent=10)
    with pytest.raises(ConfigError, match=r"process \d+ on another is running it"):
        own_run(CONFIG, output_dir=tmp_path)


def test_a_record_without_a_heartbeat_is_lost_after_a_day(tmp_path: Path) -> None:
    run = written(tmp_path, "1", status="running", steps=5)
    elsewhere(run, silent=3600, beats=False)
    with pytest.raises(ConfigError, match="is running it"):
        own_run(CONFIG, output_dir=tmp_path)
    elsewhere(run, silent=90_000, beats=False)
    found = own_run(CONFIG, output_dir=tmp_path)
    assert found is not None


def test_resume_of_one_that_runs_says_so_even_before_its_first_checkpoint(tmp_path: Path) -> None:
    from rlx.training.run import _resume

    run = written(tmp_path, "1", status="running")
    with pytest.raises(ConfigError, match=r"is still running \(process \d+ on .*\); wait for it, or stop it first"):
        _resume(OmegaConf.create({"num_steps": 5}), run, [], TrainView(quiet=True), ALONE)
