import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.difference import equivalence_p, holm, paired, rank_test_p, studentised_permutation_p, welch
from tests.comparison.published import FIRST, SECOND

RNG = np.random.default_rng(3)
A, B = RNG.normal(0.6, 0.1, 7), RNG.normal(0.5, 0.3, 9)


def test_welch_gives_the_published_numbers():
    result = welch([FIRST], [SECOND])
    assert (FIRST.mean(), SECOND.mean()) == pytest.approx((3649.020043, 4913.363358))
    assert result.statistic == pytest.approx(-3.366742448695827)
    assert result.p == pytest.approx(0.0019216196937338727)
    assert result.df == pytest.approx(33.51649986008013)
    assert (result.low, result.high) == pytest.approx((-2027.94, -500.75), abs=0.01)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_welch_equals_scipy(level):
    theirs = stats.ttest_ind(A, B, equal_var=False)
    ours = welch([A], [B], level=level)
    assert (ours.p, ours.statistic, ours.df) == pytest.approx((theirs.pvalue, theirs.statistic, theirs.df))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval(level)))


def test_paired_equals_scipy():
    theirs = stats.ttest_rel(A, B[:7])
    ours = paired([A], [B[:7]])
    assert (ours.p, ours.df) == pytest.approx((theirs.pvalue, 6))
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs.confidence_interval()))


def test_tasks_of_different_difficulty_do_not_blur_each_other():
    easy, hard = np.array([0.90, 0.91, 0.92]), np.array([0.10, 0.11, 0.12])
    apart = welch([easy, hard], [easy - 0.05, hard - 0.05])
    pooled = welch([np.concatenate([easy, hard])], [np.concatenate([easy, hard]) - 0.05])
    assert apart.difference == pytest.approx(pooled.difference) == pytest.approx(0.05)
    assert apart.p < 0.001 < 0.5 < pooled.p


def test_without_spread_there_is_no_test():
    for test in (welch, paired):
        result = test([np.full(5, 0.1 + 0.2)], [np.full(5, 0.3)])
        assert result.p is None
        assert result.standard_error == 0


def test_a_shift_that_is_the_same_for_every_seed_is_no_spread_to_test():
    assert paired([A + 0.1], [A]).p is None


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_tost_equals_two_one_sided_tests_of_scipy(margin):
    above = stats.ttest_ind(A + margin, B, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(A - margin, B, equal_var=False, alternative="less").pvalue
    assert equivalence_p(welch([A], [B]), margin=margin) == pytest.approx(max(above, below))
    above = stats.ttest_rel(A + margin, B[:7], alternative="greater").pvalue
    below = stats.ttest_rel(A - margin, B[:7], alternative="less").pvalue
    assert equivalence_p(paired([A], [B[:7]]), margin=margin) == pytest.approx(max(above, below))


def test_the_permutation_test_equals_scipys():
    a, b = A[:4], B[:5]
    theirs = stats.permutation_test(
        (a, b), lambda x, y: abs(stats.ttest_ind(x, y, equal_var=False).statistic), alternative="greater", n_resamples=9999
    )
    assert studentised_permutation_p([a], [b], RNG) == pytest.approx(theirs.pvalue)


def test_the_permutation_test_of_two_constants_counts_the_relabellings():
    assert studentised_permutation_p([np.ones(5)], [np.zeros(5)], RNG) == pytest.approx(2 / 252)
    assert studentised_permutation_p([np.ones(5)], [np.ones(5)], RNG) == 1.0


def test_random_relabellings_agree_with_all_of_them():
    exact = studentised_permutation_p([A], [B], RNG)
    halves = studentised_permutation_p([A, A], [B, B], RNG)  # two tasks are relabelled at random
    assert 0 < halves < exact < 1
    assert studentised_permutation_p([FIRST], [SECOND], RNG) == pytest.approx(0.0019, abs=0.002)


def test_what_other_prompts_add_makes_relabelled_runs_less_sure():
    few = np.full(5, 0.85) + np.linspace(-0.01, 0.01, 5)  # no run collapsed; a little better on these prompts
    many = np.concatenate([np.full(16, 0.8), np.full(4, 0.2)]) + np.linspace(-0.01, 0.01, 20)
    assert studentised_permutation_p([few], [many], RNG) < 0.01
    assert studentised_permutation_p([few], [many], RNG, over_prompts=0.05**2) > 0.02
    assert studentised_permutation_p([A, A], [B, B], RNG, over_prompts=1e-12) == pytest.approx(
        studentised_permutation_p([A, A], [B, B], RNG), abs=0.02
    )


def test_the_rank_test_equals_scipys():
    a, b = A[:5], B[:6]
    assert rank_test_p(a, b) == pytest.approx(stats.mannwhitneyu(a, b, method="exact").pvalue)
    assert rank_test_p(FIRST, SECOND) == pytest.approx(0.0023412726)
    assert rank_test_p(FIRST.round(-3), SECOND.round(-3)) == pytest.approx(
        stats.mannwhitneyu(FIRST.round(-3), SECOND.round(-3), method="asymptotic").pvalue
    )
    assert rank_test_p(np.array([3.0, 4, 5]), np.array([0.0, 1, 2])) == pytest.approx(0.1)
    assert rank_test_p(np.ones(20), np.ones(20)) == 1.0


def test_holm_multiplies_by_what_is_left_and_never_goes_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.04]
    assert holm([]) == []
