import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.crossed import (
    components,
    crossed,
    crossed_seeds_needed,
    crossed_variance,
    expected_error,
    halve_interval,
    prompt_covariance,
    prompts_needed,
)
from rlx.comparison.statistics.difference import paired, welch


def tables(rng, seeds=(8, 8), prompts=40, seed=0.1, interaction=0.0, noise=0.3, repetitions=()):
    """Real scores of two algorithms that are equal on average over all prompts. Returns two [..., S, P]."""
    difficulty = rng.normal(0, 0.3, (*repetitions, 1, prompts))
    return [
        difficulty
        + rng.normal(0, interaction, (*repetitions, 1, prompts))
        + rng.normal(0, seed, (*repetitions, size, 1))
        + rng.normal(0, noise, (*repetitions, size, prompts))
        for size in seeds
    ]


def test_without_an_interaction_and_with_no_answer_noise_it_is_welchs_test():
    rng = np.random.default_rng(0)
    a, b = tables(rng, noise=0.0)
    ours, theirs = crossed([a], [b]), welch([a.mean(axis=1)], [b.mean(axis=1)])
    assert (ours.difference, ours.p, ours.df) == pytest.approx((theirs.difference, theirs.p, theirs.df))


def test_without_differences_between_seeds_it_is_the_paired_test_over_prompts():
    a, b = tables(np.random.default_rng(1), seed=0.0, interaction=0.5, noise=0.0)
    theirs = stats.ttest_rel(a.mean(axis=0), b.mean(axis=0))
    ours = crossed([a], [b])
    assert (ours.statistic, ours.p, ours.df) == pytest.approx((theirs.statistic, theirs.pvalue, 39))


def test_pairs_are_the_crossed_test_of_their_differences():
    a, b = tables(np.random.default_rng(2), noise=0.0)
    ours, theirs = crossed([a], [b], pairs=True), paired([a.mean(axis=1)], [b.mean(axis=1)])
    assert (ours.p, ours.df) == pytest.approx((theirs.p, theirs.df))


def test_the_variance_is_that_of_the_difference_over_many_repetitions():
    a, b = tables(np.random.default_rng(3), interaction=0.3, repetitions=(4000,))
    gaps, variances, _ = crossed_variance(a, b)
    assert variances.mean() == pytest.approx(gaps.var(), rel=0.08)


def test_repetitions_are_the_single_tests():
    a, b = tables(np.random.default_rng(4), seeds=(5, 7), repetitions=(6,))
    gaps, variances, df = crossed_variance(a, b)
    for index in range(6):
        single = crossed([a[index]], [b[index]])
        assert (single.difference, single.standard_error**2, single.df) == pytest.approx(
            (gaps[index], variances[index], df[index])
        )
    assert 2 * stats.t.sf(abs(gaps[2]) / np.sqrt(variances[2]), df[2]) == pytest.approx(crossed([a[2]], [b[2]]).p)


def test_the_components_are_found():
    a, b = tables(np.random.default_rng(5), seeds=(400, 400), prompts=400, interaction=0.2)
    found = components(a, b)
    assert np.sqrt(found.seed) == pytest.approx([0.1, 0.1], rel=0.15)
    assert np.sqrt(found.residual) == pytest.approx([0.3, 0.3], rel=0.02)
    assert np.sqrt(found.interaction) == pytest.approx(0.2 * np.sqrt(2), rel=0.1)
    assert np.sqrt(found.prompt) == pytest.approx(0.3, rel=0.15)


@pytest.mark.parametrize("interaction", [0.3, 1.0])
def test_the_expected_error_is_that_of_the_test(interaction):
    a, b = tables(np.random.default_rng(6), interaction=interaction)
    test = crossed([a], [b])
    assert expected_error([components(a, b)]) == pytest.approx((test.standard_error, test.df))


def test_other_numbers_give_the_error_that_is_expected():
    parts = [components(*tables(np.random.default_rng(7), seeds=(300, 300), prompts=300, interaction=0.3))]
    error, _ = expected_error(parts, seeds=(6, 6), prompts_factor=30 / 300)
    gaps, _, _ = crossed_variance(
        *tables(np.random.default_rng(8), seeds=(6, 6), prompts=30, interaction=0.3, repetitions=(4000,))
    )
    assert error == pytest.approx(gaps.std(), rel=0.15)


def test_seeds_do_not_help_against_an_interaction_and_prompts_do():
    parts = [components(*tables(np.random.default_rng(9), seeds=(20, 20), prompts=100, seed=0.01, interaction=0.5))]
    assert crossed_seeds_needed(0.15, parts) is None
    assert prompts_needed(0.15, parts) > 150
    halving = halve_interval(parts)
    assert halving.seeds is None
    assert 300 <= halving.prompts <= 600


def test_prompts_do_not_help_against_seeds_that_differ_and_seeds_do():
    parts = [components(*tables(np.random.default_rng(10), prompts=400, seed=0.3, noise=0.1))]
    assert prompts_needed(0.1, parts) is None
    assert crossed_seeds_needed(0.1, parts) > 50
    halving = halve_interval(parts)
    assert halving.prompts is None
    assert 20 <= halving.seeds <= 40


def test_no_difference_needs_no_number():
    parts = [components(*tables(np.random.default_rng(11)))]
    assert crossed_seeds_needed(0.0, parts) is None
    assert prompts_needed(0.0, parts) is None


def test_equal_tables_give_no_test():
    same = np.tile(np.random.default_rng(12).random(10), (5, 1))
    assert crossed([same], [same]).p is None


def test_the_covariance_over_prompts_is_of_the_means():
    rng = np.random.default_rng(13)
    found = np.mean([prompt_covariance(tables(rng, interaction=0.4)) for _ in range(300)], axis=0) * 40
    assert found[0, 1] == pytest.approx(0.09, rel=0.15)
    assert found[0, 0] == pytest.approx(0.09 + 0.16, rel=0.15)
