"""What a comparison takes from the metrics of a run."""

import json

import pytest

from rlx.comparison.metrics_log import read_log
from rlx.record.run import read_run
from tests.comparison.records import write_run


def log_of(place, *lines):
    """What is read of a run with these further lines of metrics."""
    write_run(place, seed=1, noise=0.0)
    with open(place / "metrics.jsonl", "a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return read_log(read_run(place), "eval/score")


def test_what_was_spent_adds_up_and_a_step_without_a_figure_keeps_the_last(tmp_path):
    log = log_of(
        tmp_path / "a",
        {"step": 101, "cost/tokens_sampled": 10, "cost/tokens_trained": 5, "time/draw_seconds": 0.5, "time/update_seconds": 1.5},
        {"step": 102, "time/draw_seconds": 1},
        {"step": 103, "cost/tokens_trained": 30, "cost/tokens_sampled": None},
    )
    steps, tokens = log.spent["tokens"]
    assert steps.tolist()[-3:] == [101, 102, 103]
    assert tokens.tolist()[-4:] == [0, 15, 15, 30]
    assert log.spent["seconds"][1].tolist()[-4:] == pytest.approx([0, 2, 3, 3])
    assert "step" not in log.names
    assert set(log.names) >= {"eval/score", "cost/tokens_trained", "time/draw_seconds"}


def test_runs_that_agree_in_all_but_time_and_cost_are_alike(tmp_path):
    one = log_of(tmp_path / "a", {"step": 101, "train/x": 1.5, "time/draw_seconds": 0.5})
    other = log_of(tmp_path / "b", {"step": 101, "train/x": 1.5, "time/draw_seconds": 0.7})
    third = log_of(tmp_path / "c", {"step": 101, "train/x": 1.25, "time/draw_seconds": 0.5})
    assert one.fingerprint == other.fingerprint != third.fingerprint


def test_nan_and_lists_are_told_apart_and_found_alike(tmp_path):
    lists = ([1, float("nan")], [1, float("nan")], [1, 2])
    a, b, c = (
        log_of(tmp_path / str(place), {"step": 101, "train/x": float("nan"), "train/list": kept}).fingerprint
        for place, kept in enumerate(lists)
    )
    assert a == b != c
