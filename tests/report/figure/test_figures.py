import math
from dataclasses import replace
from xml.etree import ElementTree

from rlx.comparison.comparison import compare
from rlx.report.figure.svg import draw_svg
from rlx.report.files import all_figures
from tests.comparison.records import write_sweep

NAMES = {"scores", "differences", "improvement", "curves", "profile", "setting-0"}
NAMES |= {"pareto-kl", "pareto-tokens", "search-trials", "search-tokens"}  # all runs took as long: no pareto-seconds


def drawn(figure):
    return ElementTree.fromstring(f"<div>{draw_svg(figure)}</div>")


def test_every_figure_is_there_and_is_well_formed(ordinary):
    figures = [figure for figure in all_figures(ordinary) if not figure.family]
    assert {figure.name for figure in figures} == NAMES
    for figure in figures:
        assert len(list(drawn(figure).iter())) > 8
        assert "nan" not in draw_svg(figure)


def test_several_tasks_have_aggregates(tmp_path):
    for task in ("one", "two"):
        write_sweep(tmp_path / task, {"custom_dpo": [0.5, 0.52, 0.51], "hybrid": [0.6, 0.62, 0.61]}, task=task)
    figures = {figure.name: figure for figure in all_figures(compare(tmp_path, allow="tasks"))}
    assert {"aggregate-iqm", "aggregate-gap", "curves-0", "curves-1"} <= set(figures)
    assert draw_svg(figures["aggregate-iqm"]).count(' bar"') == 2
    assert "stratified bootstrap" in figures["aggregate-gap"].caption


def test_hostile_labels_stay_text(hostile):
    for figure in all_figures(hostile):
        tags = {element.tag for element in drawn(figure).iter()}
        assert tags <= {"div", "p", "svg", "g", "text", "title", "path", "circle", "rect", "line"}


def test_nothing_is_drawn_outside(ordinary):
    for figure in all_figures(ordinary):
        for circle in drawn(figure).iter("circle"):
            assert 0 <= float(circle.attrib["cx"].rstrip("%")) <= 100, figure.name
            assert 0 <= float(circle.attrib["cy"].rstrip("%")) <= 100, figure.name


def test_a_figure_that_says_nothing_is_left_out(ordinary):
    alike = replace(
        ordinary,
        variants=tuple(replace(variant, kl=0.4, tokens=None, seconds=10.0) for variant in ordinary.variants[:2]),
        pairs=tuple(replace(pair, low=math.nan, high=math.nan) for pair in ordinary.pairs),
        searches=(),
        settings=(),
        curves=(),
        arms=tuple(replace(arm, scores=[scores * 0 for scores in arm.scores]) for arm in ordinary.arms),
    )
    assert {figure.name for figure in all_figures(alike) if not figure.family} == {"scores"}
