"""What a search may choose."""

import random

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlx.errors import ConfigError
from rlx.sweep.plan.space import dimension_of, random_variants, space_of


def dimension(override):
    (axis,) = space_of(OverridesParser.create().parse_overrides([override])).axes
    return dimension_of(axis)


def number(overrides):
    return float(overrides[0].partition("=")[2])


def test_draws_stay_within_their_interval():
    generator = random.Random(0)
    made = dimension("lr=tag(log,interval(1e-5,1e-1))")
    drawn = [number(made.draw(generator)) for _ in range(400)]
    assert 1e-5 <= min(drawn) < max(drawn) <= 1e-1
    assert 150 < sum(value < 1e-3 for value in drawn) < 250


def test_whole_numbers_and_steps():
    generator = random.Random(0)
    whole = dimension("n=int(interval(1,3))")
    assert {whole.draw(generator) for _ in range(60)} == {("n=1",), ("n=2",), ("n=3",)}
    stepped = dimension("w=range(0,1,0.25)")
    assert (stepped.low, stepped.high, stepped.step) == (0.0, 0.75, 0.25)
    assert {number(stepped.draw(generator)) for _ in range(80)} == {0, 0.25, 0.5, 0.75}


def test_choices_are_their_own_overrides():
    made = dimension("algorithm=grpo,hybrid")
    assert made.ends() == [("algorithm=grpo",), ("algorithm=hybrid",)]
    assert made.overrides(1) == ("algorithm=hybrid",)


def test_both_ends_are_checked_before_a_search():
    assert [number(end) for end in dimension("x=interval(0,1)").ends()] == [0, 1]


@pytest.mark.parametrize(("override", "said"), [("x=interval(1,0)", "smaller"), ("x=tag(log,interval(0,1))", "begins above 0")])
def test_an_interval_that_is_none_is_refused(override, said):
    with pytest.raises(ConfigError, match=said):
        dimension(override)


def test_the_same_seed_draws_the_same_variants():
    made = [dimension("x=interval(0,1)"), dimension("y=1,2,3")]
    assert random_variants(made, trials=3, seed=1) == random_variants(made, trials=9, seed=1)[:3]
    assert random_variants(made, trials=3, seed=1) != random_variants(made, trials=3, seed=2)
