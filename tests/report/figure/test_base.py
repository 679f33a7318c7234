import math

import pytest

from rlx.report.figure.base import Dot, Figure, FigureAxis, Line, broadened, tick_text, ticks, with_room


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
    ("value", "step", "text"),
    [
        (0.5, 0.1, "0.5"),
        (0.25, 0.05, "0.25"),
        (2e6, 1e6, "2M"),
        (1500, 500, "1.5k"),
        (0, 50, "0"),
        (3e-6, 1e-6, "3.0e-06"),
    ],
)
def test_tick_labels_are_short(value, step, text):
    assert tick_text(value, step) == text


def test_things_are_counted_in_whole_ticks():
    assert ticks(1, 3, 6, whole=True) == [1, 2, 3]
    assert ticks(1, 12, 5, whole=True) == [5, 10]


def test_empty_ranges_have_some_width():
    assert broadened(math.nan, 1) == (0, 1)
    assert broadened(0.5, 0.5) == pytest.approx((0.45, 0.55))
    low, high = with_room(10_000, 10_000)
    assert low < 9_900 < 10_100 < high


def test_an_axis_of_names_puts_them_at_whole_numbers():
    assert FigureAxis(names=("a", "b", "c")).span == (-0.5, 2.5)


def test_a_figure_knows_whether_it_holds_single_runs():
    seed, mean = Line([0], [0], 0, role="seed"), Line([0], [0], 0)
    bare = Figure("f", "t", "c", "a", FigureAxis(), FigureAxis(), (mean, Dot(0, 0, 0, role="seed")))
    assert not bare.has_seeds
    assert Figure("f", "t", "c", "a", FigureAxis(), FigureAxis(), (mean, seed)).has_seeds
