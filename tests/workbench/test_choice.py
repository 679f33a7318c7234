"""What is evaluated or sampled: which run, and which of its checkpoints."""

import json

import pytest

from rlx.errors import ConfigError, DataError
from rlx.workbench.choice import best_step, chosen_step, located


@pytest.fixture
def run(tmp_path):
    for step in (5, 10):
        folder = tmp_path / "checkpoint" / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "trainer.json").write_text(json.dumps({"best_step": 5}))
    return tmp_path


def test_last_best_or_a_number(run):
    assert [chosen_step(run, name) for name in ("last", "best", 5)] == [10, 5, 5]


@pytest.mark.parametrize(("name", "said"), [(7, "has 5, 10"), ("newest", "last, best")])
def test_another_step_is_refused_with_those_there_are(run, name, said):
    with pytest.raises(ConfigError, match=said):
        chosen_step(run, name)


def test_a_run_without_a_checkpoint_says_so(tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint"):
        chosen_step(tmp_path, "last")


def test_the_newest_run_beside_it_with_a_checkpoint_is_named(tmp_path):
    for name, has in (("1", True), ("2", True), ("3", False)):
        (tmp_path / name / "checkpoint" / "step_5" if has else tmp_path / name).mkdir(parents=True)
    (tmp_path / "latest").symlink_to("2")
    with pytest.raises(ConfigError, match=r"has no checkpoint; .*; the newest run that has one is .*/2$"):
        chosen_step(tmp_path / "3", "last")


def test_a_best_step_that_was_not_kept_is_said(run):
    (run / "checkpoint" / "step_10" / "trainer.json").write_text(json.dumps({"best_step": 7}))
    with pytest.raises(ConfigError, match="keep_best"):
        chosen_step(run, "best")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"best_step": 1e999}'])
def test_a_damaged_trainer_file_is_said(run, text):
    (run / "checkpoint" / "step_10" / "trainer.json").write_text(text)
    with pytest.raises(DataError, match="best"):
        best_step(run / "checkpoint" / "step_10")


def test_a_directory_of_weights_has_no_record(run):
    folder = run / "checkpoint" / "step_5"
    assert located(folder, "last") == (None, folder.resolve())
