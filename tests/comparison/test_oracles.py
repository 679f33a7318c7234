"""The same values as other packages, where they are installed."""

import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.bootstrap import performance_profile
from rlx.comparison.statistics.difference import equivalence_p, holm, power, seeds_needed, welch
from rlx.comparison.statistics.effect import hedges_g, probability_of_improvement
from rlx.comparison.statistics.interval import iqm, optimality_gap
from rlx.comparison.statistics.rank import friedman
from tests.comparison.published import FIRST, SECOND

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
RNG = np.random.default_rng(8)
A, B = RNG.normal(0.6, 0.1, 7), RNG.normal(0.5, 0.2, 9)


@pytest.mark.parametrize("effect", [0.5, 0.8, 1.2, 2.0])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_power_equals_statsmodels(effect, alpha):
    solver = pytest.importorskip("statsmodels.stats.power").TTestIndPower()
    theirs = solver.power(effect, nobs1=12, alpha=alpha)
    assert power(effect, error=np.sqrt(2 / 12), df=22, alpha=alpha) == pytest.approx(theirs, abs=1e-5)
    needed = solver.solve_power(effect_size=effect, alpha=alpha, power=0.8, ratio=1)
    assert seeds_needed(effect, deviations=(1, 1), alpha=alpha) == int(np.ceil(needed))


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = RNG.random(12) ** 2
    assert holm(list(p)) == pytest.approx(list(multitest.multipletests(p, method="holm")[1]))


@pytest.mark.parametrize("margin", [0.05, 0.2, 0.5])
def test_tost_equals_statsmodels(margin):
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    assert equivalence_p(welch([A], [B]), margin=margin) == pytest.approx(
        weightstats.ttost_ind(A, B, -margin, margin, usevar="unequal")[0]
    )


def test_effect_sizes_equal_pingouin():
    pingouin = pytest.importorskip("pingouin")
    for x, y in ((A, B), (FIRST, SECOND)):
        assert hedges_g([x], [y]) == pytest.approx(pingouin.compute_effsize(x, y, eftype="hedges"))
        assert probability_of_improvement([x], [y]) == pytest.approx(pingouin.compute_effsize(x, y, eftype="CLES"))


def test_nemenyis_critical_difference_is_where_scikit_posthocs_turns():
    posthocs = pytest.importorskip("scikit_posthocs")
    scores = RNG.normal(size=(12, 4)) + np.arange(4) * 0.8
    result = friedman(scores)
    p = np.asarray(posthocs.posthoc_nemenyi_friedman(scores))
    ranks = np.array(result.mean_ranks)
    apart = np.abs(ranks[:, None] - ranks[None, :]) > result.critical_difference
    assert ((p < 0.05) == apart).all()
    assert result.chi_squared == pytest.approx(stats.friedmanchisquare(*scores.T).statistic)


def test_aggregates_equal_rliable():
    metrics = pytest.importorskip("rliable.metrics")
    scores = RNG.lognormal(size=(10, 26))
    other = RNG.lognormal(0.3, size=(5, 26))
    assert iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores))
    assert optimality_gap(scores, target=1.0) == pytest.approx(metrics.aggregate_optimality_gap(scores, 1.0))
    assert probability_of_improvement(list(scores.T), list(other.T)) == pytest.approx(
        metrics.probability_of_improvement(scores, other)
    )


def test_profiles_and_intervals_equal_rliable():
    library = pytest.importorskip("rliable.library")
    scores = RNG.lognormal(size=(10, 26))
    thresholds = np.linspace(0, 4, 17)
    assert performance_profile(list(scores.T), thresholds) == pytest.approx(
        [library.run_score_deviation(scores, threshold) for threshold in thresholds]
    )


def test_the_plain_bootstrap_equals_rliable():
    from rlx.comparison.statistics.bootstrap import bootstrap_interval, row_iqm

    library = pytest.importorskip("rliable.library")
    metrics = pytest.importorskip("rliable.metrics")
    scores = RNG.lognormal(size=(8, 12))
    np.random.seed(0)  # the only generator that this package reads
    _, theirs = library.get_interval_estimates({"x": scores}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=4000)
    ours = bootstrap_interval(list(scores.T), row_iqm, np.random.default_rng(0), num_resamples=20_000, widen=False)
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs["x"][:, 0]), abs=0.03)
