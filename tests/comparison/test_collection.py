import json

import pytest

from rlx.comparison.refusal import collect
from rlx.errors import DataError, EvidenceError
from tests.comparison.records import write_run, write_sweep


def test_each_directory_counts_once(tmp_path):
    write_sweep(tmp_path / "s", {"custom_dpo": [0.7, 0.8]})
    (tmp_path / "latest").symlink_to(tmp_path / "s")
    found = collect([tmp_path / "s", tmp_path / "latest", str(tmp_path / "s" / "custom_*")], metric="eval/score", score="last")
    assert len(found.runs) == 2


def test_records_of_other_verbs_are_no_scores(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", record={"verb": "evaluate"})
    found = collect(tmp_path, metric="eval/score", score="last")
    assert (len(found.runs), found.skipped) == (1, 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: (d / "run.json").write_text(""),
        lambda d: (d / "run.json").write_text((d / "run.json").read_text()[:200]),
        lambda d: (d / "run.json").write_text("[]"),
        lambda d: (d / "run.json").write_text(json.dumps({"schema_version": 99})),
        lambda d: (d / "metrics.jsonl").write_text('{"step": 0}\nnonsense\n{"step": 1}\n'),
        lambda d: (d / "metrics.jsonl").write_text('{"step": "many"}\n'),
    ],
    ids=["empty", "cut", "list", "newer", "garbled metrics", "no step"],
)
def test_damaged_records_are_named_never_dropped(tmp_path, damage):
    write_run(tmp_path / "good")
    damage(write_run(tmp_path / "bad", seed=1))
    found = collect(tmp_path, metric="eval/score", score="last")
    assert len(found.runs) == 1
    assert [path.rpartition("/")[2] for path in found.unreadable] == ["bad"]


def test_an_empty_place_says_what_to_run(tmp_path):
    with pytest.raises(EvidenceError, match="there are no runs"):
        collect(tmp_path, metric="eval/score", score="last")
    with pytest.raises(DataError, match="no such file"):
        collect(tmp_path / "nowhere", metric="eval/score", score="last")
