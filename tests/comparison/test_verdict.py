from dataclasses import replace

import numpy as np
import pytest

from rlx.comparison.verdict import judge, swapped
from tests.comparison.test_pair import arm, pair_of

BASE = pair_of(arm("a", [0.6, 0.7, 0.65, 0.62, 0.68]), arm("b", [0.5, 0.52, 0.55, 0.48, 0.5]))


def verdict(**changes):
    return judge([replace(BASE, **changes)])[0].verdict


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p": 0.049}, "better"),
        ({"p": 0.051}, "inconclusive"),
        ({"p": 0.001, "difference": -0.1}, "worse"),
        ({"p": 0.001, "n_a": 4}, "exploratory"),
        ({"p": 0.5, "p_equivalent": 0.04, "margin": 0.1}, "equivalent"),
        ({"p": 0.001, "p_equivalent": 0.04, "margin": 0.1}, "equivalent"),
        ({"p": 0.5, "p_equivalent": 0.06, "margin": 0.1}, "inconclusive"),
        ({"p": None}, "inconclusive"),
        ({"p": 0.0, "p_equivalent": 0.0, "margin": 0.1, "n_b": 2}, "exploratory"),
    ],
)
def test_the_rule(changes, expected):
    assert verdict(**changes) == expected


def test_a_difference_within_the_margin_is_said_not_to_matter():
    words = judge([replace(BASE, p=0.001, p_equivalent=0.01, margin=0.2)])[0].words
    assert "equivalent" in words
    assert "declared not to matter" in words


def test_without_a_difference_nothing_is_said_about_one():
    assert "declared not to matter" not in judge([replace(BASE, p=0.9, p_equivalent=0.01, margin=0.2)])[0].words


def test_what_holds_alone_may_not_hold_among_many():
    pairs = judge([replace(BASE, p=p) for p in (0.03, 0.6, 0.7)])
    assert [pair.verdict for pair in pairs] == ["inconclusive"] * 3
    assert "among so many comparisons (adjusted p 0.090)" in pairs[0].words


def test_turning_twice_changes_nothing():
    judged = judge([BASE])[0]
    once = swapped(judged)
    assert (once.a, once.verdict, once.effect_size) == ("b", "worse", -judged.effect_size)
    assert once.probability_of_improvement_interval.high == pytest.approx(1 - judged.probability_of_improvement_interval.low)
    assert once.probability_of_improvement_interval.low == pytest.approx(1 - judged.probability_of_improvement_interval.high)
    assert (once.effect_size_interval.low, once.n_a, once.low) == (-judged.effect_size_interval.high, judged.n_b, -judged.high)
    twice = swapped(once)
    assert (twice.words, twice.low, twice.statistic) == (judged.words, judged.low, judged.statistic)
    assert np.isclose(twice.probability_of_improvement, judged.probability_of_improvement)
