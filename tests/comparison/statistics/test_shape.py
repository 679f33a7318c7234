import numpy as np
import pytest
from scipy import stats

from rlx.comparison.statistics.interval import describe_shape, shapiro_wilk_p


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.80, 0.82, 0.81, 0.79, 0.20], "outlying low"),
        ([0.20, 0.21, 0.22, 0.19, 0.90], "outlying high"),
        ([0.80, 0.82, 0.81, 0.79, 0.20, 0.22, 0.21, 0.8], "two groups"),
        ([0.70, 0.72, 0.71, 0.69, 0.73], None),
        ([0.5] * 6, None),
        ([0.1, 0.9, 0.8], None),
    ],
)
def test_shapes_are_named(scores, expected):
    assert describe_shape(np.array(scores)) == expected


def test_a_long_tail_is_skewed():
    assert describe_shape(np.exp(np.linspace(-2, 2.5, 20))) == "skewed"


def test_normal_scores_are_rarely_named():
    rng = np.random.default_rng(0)
    assert np.mean([describe_shape(rng.normal(size=10)) is not None for _ in range(400)]) < 0.09
    assert np.mean([describe_shape(rng.normal(size=10), alpha=0.005) is not None for _ in range(400)]) < 0.03


@pytest.mark.parametrize("size", [4, 5, 6, 11, 12, 50, 300])
def test_shapiro_and_wilks_p_equals_scipys(size):
    rng = np.random.default_rng(size)
    for draw in (rng.normal, rng.exponential, lambda size: rng.choice([0.2, 0.8], size) + 0.02 * rng.normal(size=size)):
        scores = draw(size=size)
        assert shapiro_wilk_p(scores) == pytest.approx(stats.shapiro(scores).pvalue, abs=1e-6)
