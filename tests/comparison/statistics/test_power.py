import math

import pytest

from rlx.comparison.statistics.difference import detectable_difference, power, seeds_needed

SEEDS = {0.5: (64, 34), 0.8: (26, 15), 1: (17, 10), 1.5: (9, 6), 2: (6, 5), 3: (4, 4)}
DIFFERENCES = {3: 3.07, 5: 2.02, 8: 1.51, 10: 1.32, 20: 0.91, 30: 0.74}


@pytest.mark.parametrize("effect", SEEDS)
def test_seeds_needed_are_the_tabulated_ones(effect):
    unpaired, pairs = SEEDS[effect]
    assert seeds_needed(effect, deviations=(1, 1)) == unpaired
    assert seeds_needed(-effect, deviations=(1, 0)) == pairs


@pytest.mark.parametrize("seeds", DIFFERENCES)
def test_detectable_differences_are_the_tabulated_ones(seeds):
    found = detectable_difference(error=0.3 * math.sqrt(2 / seeds), df=2 * seeds - 2)
    assert found / 0.3 == pytest.approx(DIFFERENCES[seeds], abs=0.006)
    assert power(found, error=0.3 * math.sqrt(2 / seeds), df=2 * seeds - 2) == pytest.approx(0.8, abs=1e-5)


def test_power_of_nothing_is_the_level_and_of_much_is_one():
    assert power(0, error=1, df=8) == pytest.approx(0.05)
    assert power(0, error=1, df=8, alpha=0.01) == pytest.approx(0.01)
    assert power(1000, error=1, df=8) == 1.0


def test_the_power_at_the_seeds_needed_is_reached_there_and_not_before():
    seeds = seeds_needed(0.7, deviations=(0.5, 1.0))
    reached = [power(0.7, error=math.sqrt(1.25 / n), df=(n - 1) * 1.25**2 / (0.25**2 + 1)) for n in (seeds - 1, seeds)]
    assert reached[0] < 0.8 <= reached[1]


def test_nothing_to_find_needs_no_seeds():
    assert seeds_needed(0.0, deviations=(1, 1)) is None
    assert seeds_needed(0.1, deviations=(0, 0)) is None
    assert seeds_needed(1e-9, deviations=(1, 1)) is None
    assert detectable_difference(error=0, df=8) == 0
