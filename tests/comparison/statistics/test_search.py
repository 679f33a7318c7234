from itertools import combinations

import numpy as np
import pytest

from rlx.comparison.statistics.bootstrap import expected_best, expected_best_band


def test_the_published_example():
    assert expected_best(np.array([0.3, 0.5, 0.6, 0.9])) == pytest.approx([0.575, 0.733333, 0.825, 0.9], abs=1e-6)


def test_it_is_the_mean_of_the_maximum_over_all_subsets():
    scores = np.random.default_rng(0).normal(size=7)
    direct = [np.mean([max(subset) for subset in combinations(scores, k)]) for k in range(1, 8)]
    assert expected_best(scores) == pytest.approx(direct)


def test_many_trials_stay_finite():
    found = expected_best(np.random.default_rng(0).normal(size=2000))
    assert np.isfinite(found).all()
    assert (np.diff(found) > -1e-12).all()


def test_the_band_holds_the_curve():
    scores = np.random.default_rng(0).normal(size=12)
    low, high = expected_best_band(scores, np.random.default_rng(1))
    assert ((low <= expected_best(scores) + 1e-9) & (expected_best(scores) <= high + 0.5)).all()
