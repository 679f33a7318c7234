import struct

import pytest

from rlx.comparison.comparison import compare
from rlx.report.figure.base import Bar, Dot, Figure, FigureAxis, Line, Rule, Zone
from rlx.report.figure.paper import draw_on_axes, line_style, plain_label, write_figures
from rlx.report.figure.scores import MOST_LINES
from rlx.report.files import all_figures
from tests.comparison.records import write_sweep


@pytest.mark.whole
def test_every_figure_as_pdf_and_png(ordinary, tmp_path):
    figures = [figure for figure in all_figures(ordinary) if figure.is_printed]
    write_figures(figures, tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {figure.name for figure in figures}
    assert {"scores", "differences", "improvement", "curves", "profile", "setting-0", "pareto-kl", "search-trials"} <= names
    for name in names:
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        png = (tmp_path / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        assert 1000 < width < 3000
        assert 300 < height < 3000


@pytest.mark.whole
def test_hostile_labels_are_drawn_as_they_are(hostile, tmp_path):
    assert len(write_figures(all_figures(hostile), tmp_path)) > 5


def test_what_the_page_shows_is_what_is_printed():
    from matplotlib.figure import Figure as Canvas

    marks = (Zone(-0.1, 0.1), Rule(0.0), Bar(-0.2, 0.3, 1, "better"), Dot(0.1, 1, "better", "hover"), Line([0, 1], [0, 1], 2))
    axes = Canvas().subplots()
    draw_on_axes(Figure("f", "t", "c", "a", FigureAxis("difference", -1, 1), FigureAxis(names=("one", "two")), marks), axes)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one", "two"]
    assert axes.get_ylim() == (1.5, -0.5)
    assert axes.get_xlabel() == "difference"
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert ([-0.2, 0.3], [1, 1]) in drawn
    assert ([0.1], [1]) in drawn
    assert ([0, 1], [0, 1]) in drawn


def test_labels_are_no_formulas():
    assert plain_label("$x_1$\x1b") == r"\$x_1\$\x1b"
    assert len(plain_label("y" * 200)) <= 48


@pytest.mark.whole
def test_several_tasks_have_their_aggregates(tmp_path):
    for task in ("one", "two"):
        write_sweep(tmp_path / task, {"custom_dpo": [0.5, 0.52], "hybrid": [0.6, 0.62]}, task=task)
    found = compare(tmp_path, allow="tasks", num_resamples=100)
    names = {path.stem for path in write_figures(all_figures(found), tmp_path / "figures")}
    assert {"aggregate-iqm", "aggregate-gap", "curves-0", "curves-1"} <= names


def test_twelve_lines_look_different():
    looks = {(found["color"], found["linestyle"]) for found in map(line_style, range(MOST_LINES))}
    assert len(looks) == MOST_LINES
