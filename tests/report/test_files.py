import json
from pathlib import Path

import pytest

from rlx.comparison.comparison import compare
from rlx.errors import ConfigError
from rlx.report.files import place_beside, write_files
from tests.comparison.records import write_sweep

SCORES = {"custom_dpo": [0.5, 0.51, 0.52], "hybrid": [0.6, 0.61, 0.62]}


def test_files_lie_beside_the_runs(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    assert place_beside(comparison) == tmp_path / "sweep"
    write_files(comparison, place_beside(comparison), page=True, figures=False, version="1.2.3")
    names = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_file()}
    assert names == {"comparison.json", "comparison.md", "comparison.tex", "variants.csv", "pairs.csv", "runs.csv", "report.html"}
    again = compare(tmp_path / "sweep")  # its own files do not disturb it
    assert json.loads((tmp_path / "sweep" / "comparison.json").read_text()) == again.to_dict()


def test_several_sweeps_share_the_directory_above(tmp_path):
    write_sweep(tmp_path / "one", {"custom_dpo": SCORES["custom_dpo"]})
    write_sweep(tmp_path / "two", {"hybrid": SCORES["hybrid"]})
    assert place_beside(compare([tmp_path / "one", tmp_path / "two"])) == tmp_path


def test_runs_with_nothing_in_common_write_where_one_stands(tmp_path, monkeypatch):
    comparison = compare(write_sweep(tmp_path, SCORES))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert place_beside(comparison) == Path.cwd()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        write_files(comparison, tmp_path / "file" / "below", page=False, figures=False, version="1.2.3")


@pytest.mark.whole
def test_figures_and_page_on_demand(tmp_path):
    comparison = compare(write_sweep(tmp_path / "sweep", SCORES))
    written = write_files(comparison, tmp_path / "out", page=False, figures=True, version="1.2.3")
    assert tmp_path / "out" / "figures" in written
    assert not (tmp_path / "out" / "report.html").exists()
