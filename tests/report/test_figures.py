import struct

import pytest

from rlx.comparison.comparison import compare
from rlx.report.figures import MOST, _look, plain_label, write_figures
from tests.comparison.records import write_sweep


@pytest.mark.whole
def test_every_figure_as_pdf_and_png(ordinary, tmp_path):
    write_figures(ordinary, tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {
        "scores",
        "differences",
        "improvement",
        "curves",
        "profile",
        "setting_0",
        "pareto_kl",
        "pareto_tokens",
        "pareto_seconds",
        "search",
        "search_tokens",
    }
    for name in names:
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        png = (tmp_path / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert 1000 < width < 3000
        assert 300 < height < 3000


@pytest.mark.whole
def test_hostile_labels_are_drawn_as_they_are(hostile, tmp_path):
    assert len(write_figures(hostile, tmp_path)) > 10


def test_labels_are_no_formulas():
    assert plain_label("$x_1$\x1b") == r"\$x_1\$\x1b"
    assert len(plain_label("y" * 200)) <= 48


@pytest.mark.whole
def test_several_tasks_have_their_aggregates(tmp_path):
    for task in ("one", "two"):
        write_sweep(tmp_path / task, {"custom_dpo": [0.5, 0.52], "hybrid": [0.6, 0.62]}, task=task)
    found = compare(tmp_path, allow="tasks", num_resamples=100)
    names = {path.stem for path in write_figures(found, tmp_path / "figures")}
    assert {"aggregate_iqm", "aggregate_optimality_gap", "curves_0", "curves_1"} <= names


def test_twelve_lines_look_different():
    looks = {(look["color"], look["linestyle"]) for look in map(_look, range(MOST))}
    assert len(looks) == MOST
