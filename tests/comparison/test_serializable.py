import enum
import json
from pathlib import Path

import numpy as np

from rlx.comparison.serializable import to_plain
from rlx.comparison.statistics.interval import Interval


class Kind(enum.Enum):
    ONE = 1


def test_everything_becomes_json():
    value = {
        "a": np.array([1.0, np.nan]),
        "b": (np.float64(2), np.int64(3)),
        4: Interval(0.0, float("inf"), 0.95, "t"),
        "p": Path("x"),
    }
    expected = {"a": [1.0, None], "b": [2.0, 3], "4": {"low": 0.0, "high": None, "level": 0.95, "method": "t"}, "p": "x"}
    assert to_plain(value) == expected
    json.dumps(to_plain({"k": Kind.ONE}), allow_nan=False)


def test_a_run_is_found_again_by_its_directory(comparison, sweep):
    rows = [run.to_dict() for run in comparison.runs]
    broken = next(row for row in rows if row["state"] == "failed")
    assert broken["directory"] == str(sweep / "broken")
    assert broken["error"]["message"] == "the loss is not finite"


def test_every_part_says_itself(comparison):
    whole = comparison.to_dict()
    assert comparison.variants[0].to_dict() == whole["variants"][0]
    assert comparison.pairs[0].to_dict() == whole["pairs"][0]
    assert comparison.variants[0].interval.to_dict() == whole["variants"][0]["interval"]
    for part in (*comparison.curves, *comparison.profiles, *comparison.cautions, comparison.choices):
        json.dumps(part.to_dict(), allow_nan=False)
