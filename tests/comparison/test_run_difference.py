import json
import math
import tracemalloc

import pytest

from rlx.comparison.run_difference import MISSING, compare_two
from rlx.errors import EvidenceError
from tests.comparison.records import write_run


def log(directory, losses):
    seconds = hash(directory) % 97
    rows = [{"step": step, "train/loss": loss, "time/draw_seconds": seconds} for step, loss in enumerate(losses)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def two(tmp_path, **options):
    a = write_run(tmp_path / "a", noise=0.0)
    b = write_run(tmp_path / "b", noise=0.0, **options)
    return a, b


def test_equal_runs_do_not_part(tmp_path):
    a, b = two(tmp_path)
    log(a, [0.7, 0.6]), log(b, [0.7, 0.6])
    found = compare_two([a, b])
    assert found.parting is None
    assert (found.config, found.code, found.versions, found.results, found.lines) == ({}, {}, {}, {}, (2, 2))


def test_metrics_part_at_the_first_line_that_differs_in_the_last_bit(tmp_path):
    a, b = two(tmp_path)
    log(a, [0.7, 0.6, 0.5]), log(b, [0.7, math.nextafter(0.6, 1), 0.4])
    parting = compare_two([a, b]).parting
    assert parting.step == 1
    assert parting.values == {"train/loss": (0.6, math.nextafter(0.6, 1))}


def test_lines_that_one_run_lacks_are_no_parting(tmp_path):
    a, b = two(tmp_path)
    log(a, [0.7, 0.6, 0.5]), log(b, [0.7, 0.6])
    assert compare_two([a, b]).parting is None


def test_logs_with_other_steps_are_held_against_each_other_step_by_step(tmp_path):
    a, b = two(tmp_path)
    steps = {a: [0, 2, 3, 5], b: [1, 2, 4, 5, 6]}
    for run, of in steps.items():
        rows = [{"step": step, "train/loss": 0.5 if step < 5 else float(run is a)} for step in of]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare_two([a, b])
    assert (found.parting.step, found.parting.values) == (5, {"train/loss": (1.0, 0.0)})
    assert found.lines == (4, 5)


def test_long_logs_take_little_memory(tmp_path):
    a, b = two(tmp_path)
    log(a, [0.5] * 30_000), log(b, [0.5] * 30_000)
    tracemalloc.start()
    found = compare_two([a, b])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.parting, found.lines) == (None, (30_000, 30_000))
    assert peak < 8 * 2**20  # 24 MiB where all lines are kept


def test_what_differs_is_named_with_both_values(tmp_path):
    record = {
        "provenance": {"rlx": {"version": "0.2.0", "code": "abc"}, "git": {"commit": "0" * 40, "dirty": False}, "host": "there"},
        "sources": [{"module": "my_lab", "sha256": "f"}],
        "threads": 4,
    }
    found = compare_two(two(tmp_path, optimizer__lr=0.5, record=record, score=0.6))
    assert found.config == {"optimizer.lr": (0.001, 0.5)}
    assert found.code == {"rlx version": ("0.1.0", "0.2.0"), "source my_lab": (MISSING, "f")}
    assert found.versions == {"host": ("here", "there"), "threads": (1, 4)}
    assert found.results == {"eval/score": (0.5, 0.6)}


@pytest.mark.parametrize("number", [1, 3])
def test_two_runs_are_asked_for(tmp_path, number):
    for place in range(number):
        write_run(tmp_path / str(place))
    with pytest.raises(EvidenceError, match=f"holds {number}"):
        compare_two([tmp_path])
