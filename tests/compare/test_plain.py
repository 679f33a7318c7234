import enum
import json
from pathlib import Path

import numpy as np

from rlx.compare.interval import Interval
from rlx.compare.plain import plain, run_dict


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
    assert plain(value) == expected
    json.dumps(plain({"k": Kind.ONE}), allow_nan=False)


def test_a_run_is_found_again_by_its_directory(comparison, sweep):
    rows = [run_dict(run) for run in comparison.runs]
    broken = next(row for row in rows if row["state"] == "failed")
    assert broken["directory"] == str(sweep / "broken")
    assert broken["error"]["message"] == "the loss is not finite"
