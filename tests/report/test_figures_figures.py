from xml.etree import ElementTree

import pytest

from rlx.comparison.comparison import compare
from rlx.report.figures import all_figures
from tests.comparison.records import write_sweep

NAMES = {"intervals", "differences", "improvement", "curves", "profile", "setting-0"}
NAMES |= {"pareto-kl", "pareto-tokens", "pareto-seconds", "search-trials", "search-tokens"}


def test_every_figure_is_there_and_is_well_formed(ordinary):
    figures = all_figures(ordinary)
    assert {figure.name for figure in figures} == NAMES
    for figure in figures:
        for drawing in (figure.wide, figure.narrow):
            root = ElementTree.fromstring(drawing)
            assert root.attrib["aria-label"]
            assert "nan" not in drawing
            assert len(list(root)) > 3


def test_several_tasks_have_aggregates(tmp_path):
    for task in ("one", "two"):
        write_sweep(tmp_path / task, {"custom_dpo": [0.5, 0.52, 0.51], "hybrid": [0.6, 0.62, 0.61]}, task=task)
    figures = {figure.name: figure for figure in all_figures(compare(tmp_path, allow="tasks"))}
    assert {"aggregate-iqm", "aggregate-gap", "curves-0", "curves-1"} <= set(figures)
    assert figures["aggregate-iqm"].wide.count(' bar"') == 2
    assert "stratified bootstrap" in figures["aggregate-gap"].caption


def test_hostile_labels_stay_text(hostile):
    for figure in all_figures(hostile):
        for drawing in (figure.wide, figure.narrow):
            tags = {element.tag for element in ElementTree.fromstring(drawing).iter()}
            assert tags <= {"svg", "text", "title", "path", "circle", "rect"}


def test_every_seed_has_its_dot_and_its_line(ordinary):
    figures = {figure.name: figure for figure in all_figures(ordinary)}
    assert figures["intervals"].wide.count("seed-dot") == 31
    assert figures["curves"].wide.count(' seed"') == 31
    assert figures["curves"].legend == (0, 1, 2, 3, 4)


def test_the_matrix_shows_both_directions(ordinary):
    matrix = next(figure for figure in all_figures(ordinary) if figure.name == "improvement")
    assert matrix.wide.count("<rect") == 20


def test_the_margin_is_shaded(ordinary):
    figures = {figure.name: figure for figure in all_figures(ordinary)}
    assert 'class="margin"' in figures["differences"].wide
    assert "Shaded" in figures["differences"].caption


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_nothing_is_drawn_outside(ordinary, width):
    for figure in all_figures(ordinary):
        root = ElementTree.fromstring(getattr(figure, width))
        right = float(root.attrib["width"])
        for circle in root.iter("circle"):
            assert 0 <= float(circle.attrib["cx"]) <= right, figure.name
