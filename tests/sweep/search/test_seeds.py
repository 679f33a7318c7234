"""A bad variant does not get its other seeds; luck that both share is no reason."""

from rlx.sweep.search.search import FEWEST, is_beaten

LUCK = [0.0, 0.3, -0.2, 0.5, 0.1, -0.4]


def by_seed(scores):
    return dict(enumerate(scores))


def test_a_little_worse_on_every_seed_is_seen_through_the_luck():
    worse = [value - 0.05 for value in LUCK]
    assert not is_beaten(by_seed(worse[:2]), by_seed(LUCK))
    assert is_beaten(by_seed(worse[: FEWEST - 1]), by_seed(LUCK))


def test_as_good_or_better_goes_on():
    assert not is_beaten(by_seed(LUCK[:4]), by_seed(LUCK))
    assert not is_beaten(by_seed([value + 0.05 for value in LUCK[:4]]), by_seed(LUCK))
    mixed = [value + change for value, change in zip(LUCK, (0.1, -0.1, 0.1, -0.1), strict=False)]
    assert not is_beaten(by_seed(mixed), by_seed(LUCK))


def test_only_seeds_that_both_have_count():
    assert not is_beaten({7: -1.0, 8: -1.0, 9: -1.0, 0: -1.0}, by_seed(LUCK))
    assert not is_beaten(by_seed([-1.0] * 5), {})
