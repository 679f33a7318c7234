import math
import re
from xml.etree import ElementTree

import pytest

from rlx.report.figures import Plot, escape, room, shorten, spread_labels, tick_text, ticks, widened


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.31, 0.79, 5, [0.4, 0.5, 0.6, 0.7]),
        (0, 200, 4, [0, 50, 100, 150, 200]),
        (3, 3, 4, [3]),
    ],
)
def test_ticks_are_round(low, high, count, expected):
    assert ticks(low, high, count) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "step", "text"), [(0.5, 0.1, "0.5"), (0.25, 0.05, "0.25"), (2e6, 1e6, "2M"), (1500, 500, "1.5k"), (0, 50, "0")]
)
def test_tick_labels_are_short(value, step, text):
    assert tick_text(value, step) == text


def test_things_are_counted_in_whole_ticks():
    assert ticks(1, 3, 6, whole=True) == [1, 2, 3]
    assert ticks(1, 12, 5, whole=True) == [5, 10]


def test_text_is_escaped_everywhere():
    plot = Plot(300, 200, (0, 1), (0, 1))
    evil = '<script>"&\x1b'
    plot.axes(evil, evil)
    plot.text(1, 2, evil, "name", title=evil)
    plot.line([0, 1], [0, 1], "v0", title=evil)
    plot.dot(0, 0, "v0", title=evil, shape=1)
    root = ElementTree.fromstring(plot.done(evil))
    assert "script" not in {element.tag for element in root.iter()}
    assert root.attrib["aria-label"] == '<script>"&\\x1b'
    assert escape("<a>") == "&lt;a&gt;"


def test_gaps_break_lines_and_empty_ranges_have_room():
    plot = Plot(300, 200, (0, 2), (0.5, 0.5))
    plot.line([0, 1, 2], [0.5, math.nan, 0.5], "v0")
    assert plot.parts[-1].count("M") == 2
    assert plot.y_range == pytest.approx((0.45, 0.55))
    assert widened((math.nan, 1)) == (0, 1)
    low, high = room(10_000, 10_000)
    assert low < 9_900 < 10_100 < high


def test_bands_stay_in_the_frame():
    plot = Plot(300, 200, (0, 1), (0, 1), top=10, bottom=30)
    plot.band([0, 1], [-5, -5], [5, 5], "v0")
    heights = [float(y) for y in re.findall(r"[ML]?[\d.]+ ([\d.]+)", plot.parts[-1])]
    assert min(heights) >= 10
    assert max(heights) <= 170


def test_labels_are_cut_in_their_middle_and_pushed_apart():
    assert shorten("abcdefghijklmnopqrstuvwxyz", 75) == "abcd…vwxyz"
    assert shorten("short", 75) == "short"
    assert spread_labels([10, 10, 50]) == [10, 24, 50]
