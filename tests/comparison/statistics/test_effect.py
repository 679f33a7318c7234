import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from rlx.comparison.statistics.effect import (
    hedges_g,
    hedges_g_interval,
    pooled_deviation,
    probability_of_improvement,
    probability_of_improvement_interval,
)
from tests.comparison.published import FIRST, SECOND


def test_the_published_effect_sizes():
    assert hedges_g([FIRST], [SECOND]) == pytest.approx(-1.04350531, abs=1e-8)
    assert probability_of_improvement([FIRST], [SECOND]) == pytest.approx(0.2175)


def test_probability_of_improvement_of_the_example_of_rliable():
    x = np.array([[1, 2], [2, 2], [1, 1], [2, 1]]).T
    y = np.array([[1, 1], [2, 2], [3, 3]]).T
    assert probability_of_improvement(x, y) == pytest.approx(1 / 3)


@pytest.mark.parametrize("shift", [0.0, 1.0, -2.5])
def test_at_its_ends_the_interval_of_g_has_the_promised_tails(shift):
    rng = np.random.default_rng(1)
    a, b = rng.normal(shift, 1, 6), rng.normal(0, 1, 8)
    unit = math.sqrt(1 / 6 + 1 / 8)
    statistic = (a.mean() - b.mean()) / pooled_deviation(a, b) / unit
    interval = hedges_g_interval([a], [b])
    factor = hedges_g([a], [b]) / ((a.mean() - b.mean()) / pooled_deviation(a, b)) * unit
    assert special.nctdtr(12, interval.low / factor, statistic) == pytest.approx(0.975, abs=1e-6)
    assert special.nctdtr(12, interval.high / factor, statistic) == pytest.approx(0.025, abs=1e-6)


def test_the_interval_of_a_huge_effect_continues_that_of_a_large_one():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=6), rng.normal(size=6)
    widths = [(lambda i: i.high - i.low)(hedges_g_interval([a + shift], [b])) / shift for shift in (15, 40, 1e6)]
    assert widths == pytest.approx([widths[0]] * 3, rel=0.2)


def test_without_spread_there_is_no_effect_size():
    assert hedges_g([np.ones(4)], [np.zeros(4)]) is None
    assert hedges_g_interval([np.ones(4)], [np.zeros(4)]) is None


def test_five_wins_of_five_are_no_certainty():
    interval = probability_of_improvement_interval([np.arange(5) + 10.0], [np.arange(5.0)])
    assert interval.high == 1.0
    assert 0.5 < interval.low < 0.8


@given(st.lists(st.integers(0, 5), min_size=2, max_size=8), st.lists(st.integers(0, 5), min_size=2, max_size=8))
def test_improvement_and_its_opposite_add_to_one(a, b):
    x, y = np.array(a, float), np.array(b, float)
    assert probability_of_improvement([x], [y]) + probability_of_improvement([y], [x]) == pytest.approx(1)
    there, back = probability_of_improvement_interval([x], [y]), probability_of_improvement_interval([y], [x])
    assert 0 <= there.low <= probability_of_improvement([x], [y]) <= there.high <= 1
    assert there.low == pytest.approx(1 - back.high, abs=1e-9)
