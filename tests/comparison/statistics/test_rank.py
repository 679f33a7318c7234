import math

import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.rank import friedman, task_ranks
from rlx.errors import EvidenceError

SCORES = np.random.default_rng(5).normal(size=(9, 4)) + np.arange(4) * 0.7


def test_ranks_count_from_the_highest_and_ties_share():
    assert task_ranks(np.array([[0.9, 0.5, 0.5, 0.1]])).tolist() == [[1, 2.5, 2.5, 4]]


@pytest.mark.parametrize("scores", [SCORES, SCORES.round()], ids=["no ties", "ties"])
def test_friedman_equals_scipy(scores):
    theirs = stats.friedmanchisquare(*scores.T)
    ours = friedman(scores)
    assert (ours.chi_squared, ours.chi_squared_p) == pytest.approx((theirs.statistic, theirs.pvalue))
    f = 8 * theirs.statistic / (9 * 3 - theirs.statistic)
    assert (ours.f, ours.p) == pytest.approx((f, stats.f.sf(f, 3, 24)))


def test_the_critical_difference_of_demsars_example():
    """Four algorithms over 14 data sets: q = 2.569, CD = 1.25 (Demsar 2006, section 3.2.4)."""
    assert friedman(np.random.default_rng(0).normal(size=(14, 4))).critical_difference == pytest.approx(1.25, abs=0.005)


def test_the_same_order_in_every_task_leaves_no_doubt():
    result = friedman(np.tile([3.0, 2.0, 1.0], (4, 1)))
    assert math.isinf(result.f)
    assert result.p == pytest.approx((1 / 6) ** 3)  # the chance that four tasks rank alike
    assert result.mean_ranks == (1, 2, 3)


def test_nothing_but_ties_says_nothing():
    assert friedman(np.ones((4, 3))).p == pytest.approx(1)


def test_two_algorithms_are_no_ranking():
    with pytest.raises(EvidenceError, match="3 algorithms"):
        friedman(np.ones((4, 2)))
