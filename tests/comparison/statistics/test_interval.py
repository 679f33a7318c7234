import math

import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.interval import deviation, iqm, iqm_interval, mean_interval, optimality_gap, standard_error
from rlx.errors import EvidenceError


@pytest.mark.parametrize("size", [2, 3, 5, 11])
def test_the_mean_has_students_interval(size):
    scores = np.random.default_rng(size).normal(size=size)
    ours = mean_interval([scores], level=0.9)
    theirs = stats.ttest_1samp(scores, 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


def test_over_tasks_the_interval_is_that_of_the_mean_of_the_tasks_means():
    a, b = np.array([1.0, 2.0, 4.0]), np.array([10.0, 11.0, 10.5, 9.0])
    error, df = standard_error([a, b])
    parts = a.var(ddof=1) / 3, b.var(ddof=1) / 4
    assert error == pytest.approx(math.sqrt(sum(parts)))
    assert df == pytest.approx(stats.ttest_ind(a, b, equal_var=False).df)
    interval = mean_interval([a, b])
    assert (interval.low + interval.high) / 2 == pytest.approx((a.mean() + b.mean()) / 2)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 10, 19, 20])
def test_iqm_is_the_trimmed_mean(size):
    scores = np.random.default_rng(size).lognormal(size=size)
    assert iqm(scores) == pytest.approx(stats.trim_mean(scores, 0.25))


def test_iqm_of_the_examples_of_rliable():
    assert iqm(np.array([[1, 2], [2, 2], [1, 1], [2, 1]])) == 1.5
    assert iqm(np.array([[1, 1], [2, 2], [3, 3]])) == 2
    assert iqm(np.array([1.0, 2.0, 9.0])) == 4.0  # below 4 values nothing is cut: the mean


@pytest.mark.parametrize("size", [4, 8, 12])
def test_the_interval_of_the_iqm_is_that_of_scipy_but_for_the_documented_widening(size):
    scores = np.random.default_rng(size).normal(size=size)
    low, high = stats.mstats.trimmed_mean_ci(scores, limits=(0.25, 0.25))
    ours = iqm_interval(scores)
    assert ours.high - ours.low == pytest.approx((high - low) * size / (size - 1))
    assert ours.high + ours.low == pytest.approx(high + low)


def test_equal_scores_have_no_spread_whatever_the_rounding():
    assert deviation(np.array([0.1 + 0.2, 0.3, 0.3])) == 0.0
    interval = mean_interval([np.full(5, 0.7)])
    assert interval.low == interval.high == pytest.approx(0.7)


def test_one_seed_carries_no_interval():
    with pytest.raises(EvidenceError, match="1 seed carries no interval"):
        mean_interval([np.array([0.5])])


def test_optimality_gap_ignores_what_lies_above_the_target():
    assert optimality_gap(np.array([0.5, 1.0, 7.0]), target=1.0) == pytest.approx(0.5 / 3)
