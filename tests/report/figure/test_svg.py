import math
import re
from xml.etree import ElementTree

import pytest

from rlx.report.figure.base import Band, Bar, Dot, Figure, FigureAxis, Line, Rule, Tile, Zone
from rlx.report.figure.svg import BOX, draw_svg, escape, in_two_lines, shorten, spread_labels

EVIL = '<script>"&\x1b'


def figure(*marks, x=None, y=None):
    return Figure("f", "title", "caption", f"about {EVIL}", x or FigureAxis(EVIL, 0, 1), y or FigureAxis(EVIL, 0, 1), marks)


def parse(drawing):
    return ElementTree.fromstring(f"<div>{drawing}</div>")


def path_of(mark):
    return next(e.attrib["d"] for e in parse(draw_svg(figure(mark))).iter("path"))


def corners(path):
    """The points that relative commands lead to."""
    x = y = 0
    points = []
    for command, numbers in re.findall(r"([MLhvl])([-\d ]*)", path):
        values = [int(number) for number in re.findall(r"-?\d+", numbers)]
        if command in "ML":
            x, y = values
        else:
            x += {"h": values[0], "v": 0, "l": values[0]}[command]
            y += {"h": 0, "v": values[0], "l": values[-1]}[command]
        points.append((x, y))
    return points


def test_text_is_escaped_everywhere():
    marks = [
        Line([0, 1], [0, 1], 0, EVIL, label=EVIL),
        Dot(0, 0, 9, EVIL, label=EVIL),
        Dot(0, 0, 0, EVIL, role="seed"),
        Bar(0, 1, 0, "better"),
    ]
    root = parse(
        draw_svg(figure(*marks, Tile(0, 0, 0.7, EVIL, EVIL), x=FigureAxis(EVIL, names=(EVIL,)), y=FigureAxis(names=(EVIL,))))
    )
    assert {element.tag for element in root.iter()} <= {"div", "p", "svg", "g", "text", "title", "path", "circle", "line", "rect"}
    assert root.find(".//svg").attrib["aria-label"] == 'about <script>"&\\x1b'
    assert escape("<a>") == "&lt;a&gt;"


def test_a_line_leads_through_its_points_and_breaks_where_one_is_not_finite():
    assert corners(path_of(Line([0, 0.5, 1], [0, 1, 0.25], 0))) == [(0, BOX), (BOX // 2, 0), (BOX, 3 * BOX // 4)]
    assert path_of(Line([0, 0.25, 0.5, 0.75, 1], [0, 1, math.nan, 1, 0], 0)).count("M") == 2


def test_a_step_holds_its_value_until_the_next():
    assert corners(path_of(Line([0, 1], [1, 0], 0, is_stepped=True))) == [(0, 0), (BOX, 0), (BOX, BOX)]


def test_a_band_goes_there_and_back_inside_the_plot():
    points = corners(path_of(Band([0, 1], [-5, 0.5], [5, 1], 0)))
    assert points == [(0, 0), (BOX, 0), (BOX, BOX // 2), (0, BOX)]


def test_percentages_place_dots_and_bars():
    root = parse(draw_svg(figure(Dot(0.25, 0.75, 3), Bar(0.1, 0.6, 0.5, 2))))
    dot = root.find(".//circle")
    assert (dot.attrib["cx"], dot.attrib["cy"], dot.attrib["class"]) == ("25%", "25%", "v3 mean")
    bar = next(line for line in root.iter("line") if "bar" in line.attrib["class"])
    assert (bar.attrib["x1"], bar.attrib["x2"], bar.attrib["y1"]) == ("10%", "60%", "50%")


def test_a_colour_that_comes_again_comes_with_another_shape():
    shapes = {path_of(Dot(0, 0, colour)) for colour in (8, 16, 24)}
    assert len(shapes) == 3


def test_rows_run_downwards_and_the_zero_line_leaves_room_for_their_names():
    root = parse(draw_svg(figure(Zone(-0.1, 0.1), Rule(0.5), Dot(0.5, 1, 0), y=FigureAxis(names=("first", "second")))))
    assert root.find(".//circle").attrib["cy"] == "75%"
    pieces = [(line.attrib["y1"], line.attrib["y2"]) for line in root.iter("line") if line.attrib["class"] == "zero"]
    assert pieces == [("11%", "39%"), ("61%", "89%")]
    names = [text for text in root.iter("text") if "above" in text.attrib["class"]]
    assert [(text.attrib["y"], text.attrib["dy"]) for text in names] == [("0%", "14"), ("50%", "14")]


@pytest.mark.parametrize(("share", "side"), [(0.8, "win"), (0.2, "lose")])
def test_a_tile_is_coloured_by_its_side(share, side):
    root = parse(draw_svg(figure(Tile(1, 0, share, "80"), x=FigureAxis(names=("a", "b")), y=FigureAxis(names=("a", "b")))))
    assert (root.find(".//rect").attrib["class"], root.find(".//rect").attrib["x"]) == (side, "50%")


def test_labels_are_cut_in_their_middle_and_pushed_apart():
    assert shorten("abcdefghijklmnopqrstuvwxyz", 10) == "abcd…vwxyz"
    assert shorten("short", 10) == "short"
    assert spread_labels([10, 10, 50]) == [10, 24, 50]
    assert spread_labels([90, 95, 99], lowest=100) == [72, 86, 100]


LONG = ("dpo beta=0.2 lr=0.0003\n− dpo beta=0.05 lr=0.0003", "dpo beta=0.2 lr=0.0003\n− grpo")


def test_a_long_name_of_a_difference_is_whole_in_two_lines():
    drawn = draw_svg(figure(Rule(0.5), y=FigureAxis(names=LONG)))
    texts = list(parse(drawn).iter("text"))
    beside = [(text.attrib["dy"], "".join(text.itertext())) for text in texts if "beside" in text.attrib["class"]]
    hover = LONG[0].replace("\n", " ")
    assert beside[:2] == [("-3", f"{hover}dpo beta=0.2 lr=0.0003"), ("11", f"{hover}− dpo beta=0.05 lr=0.0003")]
    short = draw_svg(figure(Rule(0.5), y=FigureAxis(names=("a\n− b",))))
    assert ["".join(text.itertext()) for text in parse(short).iter("text") if "beside" in text.attrib["class"]] == ["a − ba − b"]
    assert "--narrow:62px;--shift:16px" in drawn
    above = [
        (text.attrib["dy"], "".join(text.itertext())) for text in parse(drawn).iter("text") if "above" in text.attrib["class"]
    ]
    assert [dy for dy, _ in above] == ["14", "29", "14", "29"]
    assert above[1][1].endswith("− dpo beta=0.05 lr=0.0003")
    assert "--narrow:46px;--shift:9px" in draw_svg(figure(Rule(0.5), y=FigureAxis(names=("a\n− b",))))


def test_rows_of_a_matrix_are_told_apart_on_a_narrow_screen():
    assert in_two_lines("1 dpo beta=0.2 lr=0.0003", 16) == ["1 dpo beta=0.2", "lr=0.0003"]
    assert in_two_lines("short", 16) == ["short"]
    assert in_two_lines("a" * 40, 16) == ["a" * 16, "aaaaaaa…aaaaaaaa"]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_long_names_below_an_axis_do_not_lie_on_each_other(count):
    names = tuple(f"{place}{'x' * 60}" for place in range(count))
    drawn = parse(draw_svg(figure(Dot(0, 0.5, 0), x=FigureAxis("kind", names=names))))
    ticks = [text for text in drawn.iter("text") if text.attrib["class"] == "tick" and text.attrib["text-anchor"] == "middle"]
    shown = [list(text.itertext())[-1] for text in ticks]
    assert [text[0] for text in shown] == [str(place) for place in range(count)]
    assert sum(map(len, shown)) <= 52
