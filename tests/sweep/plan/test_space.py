"""What a command line asks to vary."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from rlx.errors import ConfigError
from rlx.sweep.plan.space import space_of


def space(*overrides, **options):
    return space_of(OverridesParser.create().parse_overrides(list(overrides)), **options)


def test_axes_fixed_values_and_seeds_are_taken_apart():
    found = space("a.x=1,2", "b=3", "seed=range(0,3)", "c=choice(u,v)")
    assert found.fixed == ("b=3",)
    assert found.seeds == (0, 1, 2)
    assert list(found.grid()) == [("a.x=1", "c=u"), ("a.x=1", "c=v"), ("a.x=2", "c=u"), ("a.x=2", "c=v")]


def test_seeds_are_never_a_dimension():
    assert space("a=1,2", "seed=4,2,4").seeds == (4, 2)
    assert all("seed" not in text for point in space("a=1,2", "seed=0,1").grid() for text in point)
    assert space("a=1,2").seeds == (0,)
    assert space("a=1,2", "seed=7").seeds == (7,)
    assert space("a=1,2", "seed=7", seeds=3).seeds == (7, 8, 9)


def test_of_two_values_for_a_key_the_last_counts():
    found = space("a=1,2", "a=5", "seed=0,1", "seed=3")
    assert (found.axes, found.fixed, found.seeds) == ((), ("a=5",), (3,))


def test_an_interval_has_no_points():
    found = space("x=interval(0,1)", "y=1,2")
    assert found.intervals == ["x"]


def test_pairs_are_one_axis():
    found = space("a=1,2", "b=x,y", "c=3,4", zipped=["a", "c"])
    assert list(found.grid()) == [
        ("a=1", "c=3", "b=x"),
        ("a=1", "c=3", "b=y"),
        ("a=2", "c=4", "b=x"),
        ("a=2", "c=4", "b=y"),
    ]


@pytest.mark.parametrize(
    ("overrides", "options", "said"),
    [
        (["a=1,2", "b=1,2,3"], {"zipped": ["a", "b"]}, "a has 2, b has 3"),
        (["alpha=1,2", "b=1,2"], {"zipped": ["alpa", "b"]}, "did you mean alpha"),
        (["a=1,2", "b=interval(0,1)"], {"zipped": ["a", "b"]}, "listed"),
        (["seed=interval(0,9)"], {}, "repeats"),
        (["seed=a,b"], {}, "whole number"),
        (["seed=0,1,2"], {"seeds": 5}, "different things"),
        (["sweep.workers=1,2"], {}, "cannot be varied"),
        (["seed=range(0,100000000000)"], {}, r"has 100,000,000,000 values"),
        (["seed=shuffle(range(0,100000000000))"], {}, r"has 100,000,000,000 values"),
        (["a=range(0,1,1e-12)"], {}, "values, and a sweep has at most"),
        (["a=1,2"], {"seeds": 10**9}, "sweep.seeds=1000000000"),
    ],
)
def test_what_makes_no_sense_is_refused(overrides, options, said):
    with pytest.raises(ConfigError, match=said):
        space(*overrides, **options)


def test_a_grid_has_an_end():
    many = space("a=range(0,200)", "b=range(0,100)", "seed=range(0,2)")
    with pytest.raises(ConfigError, match="40,000 jobs, and at most 10,000 are run"):
        list(many.grid())
