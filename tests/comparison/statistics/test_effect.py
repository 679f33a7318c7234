import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from rlx.comparison.statistics import effect
from rlx.comparison.statistics.difference import welch
from rlx.comparison.statistics.effect import (
    average_deviation,
    chance_p,
    hedges_g,
    hedges_g_interval,
    probability_of_improvement,
    probability_of_improvement_interval,
    share_interval,
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
    test = welch([a], [b])
    spread, _ = average_deviation([a], [b])
    interval = hedges_g_interval([a], [b])
    low, high = (end * spread / test.standard_error for end in (interval.low, interval.high))
    assert special.nctdtr(test.df, low, test.statistic) == pytest.approx(0.975, abs=1e-6)
    assert special.nctdtr(test.df, high, test.statistic) == pytest.approx(0.025, abs=1e-6)


def test_the_unit_of_g_does_not_depend_on_which_arm_has_more_seeds():
    wide, narrow = np.array([-3.0, 0.0, 3.0]), np.array([-1.0, 0.0, 1.0])
    assert average_deviation([wide], [np.tile(narrow, 10) * np.sqrt(29 / 30 * 1.5)])[0] == pytest.approx(
        np.sqrt((9 + 1) / 2), rel=0.02
    )
    assert average_deviation([wide], [narrow]) == (pytest.approx(np.sqrt(5)), 4)


@pytest.mark.parametrize(("sizes", "spreads"), [((5, 20), (1, 3)), ((5, 20), (3, 1)), ((10, 10), (1, 3))])
def test_the_interval_of_g_covers_with_unequal_seeds_and_spreads(sizes, spreads):
    """A pooled deviation covered 0.84."""
    rng, repetitions = np.random.default_rng(sizes[0] + spreads[0]), 600
    truth = 1.0
    gap = truth * math.sqrt((spreads[0] ** 2 + spreads[1] ** 2) / 2)
    found = [
        hedges_g_interval([rng.normal(gap, spreads[0], sizes[0])], [rng.normal(0, spreads[1], sizes[1])])
        for _ in range(repetitions)
    ]
    covered = np.mean([interval.low <= truth <= interval.high for interval in found])
    assert covered >= 0.94 - 3 * math.sqrt(0.05 * 0.95 / repetitions)


def test_the_chance_of_beating_is_tested_whatever_the_spreads():
    rng = np.random.default_rng(3)
    assert chance_p(np.arange(6.0) + 10, np.arange(6.0), rng) == pytest.approx(2 / math.comb(12, 6))
    assert chance_p(np.ones(6), np.ones(6), rng) == 1.0
    errors = [chance_p(rng.normal(0, 4, 10), rng.normal(size=10), rng, num_permutations=199) < 0.05 for _ in range(200)]
    assert np.mean(errors) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_random_relabellings_agree_with_all_of_them(monkeypatch):
    rng = np.random.default_rng(4)
    a, b = rng.normal(0.8, 1, 8), rng.normal(size=8)
    every = chance_p(a, b, rng)
    monkeypatch.setattr(effect, "ENUMERATED", 0)
    assert chance_p(a, b, rng) == pytest.approx(every, abs=0.02)


@pytest.mark.parametrize(("count", "total"), [(0, 10), (2, 10), (10, 10), (1, 3)])
def test_the_interval_of_a_share_is_exact(count, total):
    theirs = stats.binomtest(count, total).proportion_ci(method="exact")
    ours = share_interval(count, total)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


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
