import pytest

from rlx.comparison.choices import HIGHER_IS_BETTER, LOWER_IS_BETTER, is_lower_better, known_direction
from rlx.errors import ConfigError


@pytest.mark.parametrize(
    ("metric", "lower"),
    [("eval/score", False), ("eval/pass_at_4", False), ("eval/kl", True), ("train/loss", True)],
)
def test_a_metric_declares_its_direction(metric, lower):
    assert is_lower_better(metric) is lower
    assert is_lower_better(metric, declared=not lower) is not lower


def test_a_metric_without_a_direction_is_refused_until_it_is_declared():
    with pytest.raises(ConfigError, match=r"lower_is_better=true .or metric=-eval/entropy"):
        is_lower_better("eval/entropy")
    assert is_lower_better("eval/entropy", declared=True)
    assert known_direction("eval/entropy") is None


def test_no_metric_is_declared_both_ways():
    assert not set(HIGHER_IS_BETTER) & set(LOWER_IS_BETTER)
    assert [name for name in HIGHER_IS_BETTER if is_lower_better(name)] == []
