"""The run that a command has begun already is found by the hash of its config."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.record.process import this_process
from rlx.record.provenance import config_hash
from rlx.record.unfinished import own_run

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
    with pytest.raises(ConfigError, match=r"is the run of this command, and process \d+ on .* is making it"):
        own_run(CONFIG, output_dir=tmp_path)
