import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.bootstrap import (
    bootstrap_interval,
    performance_profile,
    profile_band,
    row_iqm,
    row_optimality_gap,
    stratified_bootstrap,
)

SCORES = [np.random.default_rng(task).normal(task, 1, 6) for task in range(3)]


def rng():
    return np.random.default_rng(7)


def test_rows_are_aggregated_as_single_samples_are():
    values = rng().normal(size=(4, 11))
    assert row_iqm(values) == pytest.approx([stats.trim_mean(row, 0.25) for row in values])
    assert row_iqm(values[:, :3]) == pytest.approx(values[:, :3].mean(axis=1))
    assert row_optimality_gap(0.0)(np.array([[-1.0, 1.0]])) == pytest.approx([0.5])


def row_mean(values):
    return values.mean(axis=1)


def test_runs_are_resampled_within_their_task():
    constant = [np.zeros(5), np.ones(5)]
    assert (stratified_bootstrap(constant, row_mean, rng()) == 0.5).all()


def test_the_spread_of_the_resampled_mean_is_known():
    draws = stratified_bootstrap(SCORES, row_mean, rng(), num_resamples=20_000)
    assert draws.std() == pytest.approx(np.sqrt(sum(s.var() / 6 for s in SCORES)) / 3, rel=0.03)


def test_the_same_generator_gives_the_same_interval():
    assert bootstrap_interval(SCORES, row_iqm, rng()) == bootstrap_interval(SCORES, row_iqm, rng())


def test_few_runs_widen_the_interval_and_many_do_not():
    plain, wide = (bootstrap_interval(SCORES, row_mean, rng(), widen=widen) for widen in (False, True))
    factor = (18 / 15) ** 0.75 * stats.t.ppf(0.975, 15) / stats.norm.ppf(0.975)
    assert wide.high - wide.low == pytest.approx((plain.high - plain.low) * factor)
    many = [rng().normal(size=5000)]
    plain, wide = (bootstrap_interval(many, row_mean, rng(), num_resamples=200, widen=widen) for widen in (False, True))
    assert (wide.low, wide.high) == pytest.approx((plain.low, plain.high), abs=1e-4)


def test_the_profile_falls_from_one_to_zero_and_its_band_holds_it():
    thresholds = np.linspace(-10, 10, 41)
    profile = performance_profile(SCORES, thresholds)
    low, high = profile_band(SCORES, thresholds, rng())
    assert profile[0] == 1
    assert profile[-1] == 0
    assert (np.diff(profile) <= 0).all()
    assert ((low <= profile + 1e-12) & (profile <= high + 1e-12)).all()
    assert performance_profile([np.array([1.0, 2, 3]), np.array([5.0])], np.array([2.0])) == pytest.approx([(1 / 3 + 1) / 2])
