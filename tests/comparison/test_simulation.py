"""The method is honest: error rates, coverage and power of the verdicts themselves, by simulation.

The fast versions catch what is badly wrong; the slow ones (pytest -m slow) measure what `rlx guide statistics` says.
"""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import special

from rlx.comparison.choices import Choices
from rlx.comparison.comparison import judge
from rlx.comparison.pair import Arm, compare_pair
from rlx.comparison.statistics.bootstrap import bootstrap_interval, row_iqm
from rlx.comparison.statistics.crossed import Components, components, crossed, crossed_seeds_needed, prompts_needed
from rlx.comparison.statistics.difference import detectable_difference, seeds_needed
from rlx.comparison.statistics.effect import chance_p, hedges_g_interval, probability_of_improvement_interval
from rlx.comparison.statistics.interval import iqm, iqm_interval, mean_interval
from tests.comparison.simulate import KINDS, answers, bootstrap_excludes_zero, crossed_p, error_rates, welch_p

pytestmark = pytest.mark.whole

SHAPES = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.lognormal(size=size),
    "collapsing": lambda rng, size: np.where(rng.random(size) < 0.2, rng.normal(0.2, 0.02, size), rng.normal(0.8, 0.02, size)),
    "two groups": lambda rng, size: np.where(rng.random(size) < 0.5, rng.normal(0.2, 0.02, size), rng.normal(0.8, 0.02, size)),
    "accuracy": lambda rng, size: rng.binomial(512, 0.7, size) / 512,
}
MEANS = {"normal": 0.0, "skewed": np.exp(0.5), "collapsing": 0.68, "two groups": 0.5, "accuracy": 0.7}
SLOW, FAST = 4000, 100


def pytest_generate_tests(metafunc):
    if "repetitions" in metafunc.fixturenames:
        metafunc.parametrize("repetitions", [FAST, pytest.param(SLOW, marks=pytest.mark.slow)], ids=["fast", "slow"])


def room(rate: float, repetitions: int) -> float:
    """Three standard errors of a rate measured this often."""
    return 3 * float(np.sqrt(rate * (1 - rate) / repetitions))


@cache
def declared(paired=False, margin=None, prompts="fixed"):
    return Choices.declared(paired=paired, margin=margin, prompts=prompts)


def verdicts(scores, *, is_paired=False, margin=None):
    """Verdicts over all pairs of the arms. scores: arms of [S]."""
    arms = [Arm(str(index), [values], [range(len(values))]) for index, values in enumerate(scores)]
    couples = [(a, b) for place, a in enumerate(arms) for b in arms[place + 1 :]]
    rng = np.random.default_rng(0)
    choices = declared(is_paired, margin)
    return [pair.verdict for pair in judge([compare_pair(a, b, choices, comparisons=len(couples), rng=rng) for a, b in couples])]


def error_rate(shape, sizes, repetitions):
    rng = np.random.default_rng([len(shape), *sizes])
    draws = (verdicts([SHAPES[shape](rng, size) for size in sizes]) for _ in range(repetitions))
    return np.mean([bool({"better", "worse"} & set(found)) for found in draws])


@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_equal_algorithms_are_rarely_called_better_or_worse(shape, seeds, repetitions):
    assert error_rate(shape, [seeds, seeds], repetitions) <= 0.06 + (repetitions == FAST) * room(0.05, repetitions)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(5, 20), (10, 20)])
@pytest.mark.parametrize("shape", ["normal", "skewed", "collapsing", "two groups"])
def test_so_are_equal_algorithms_with_unequal_numbers_of_seeds(shape, sizes):
    assert error_rate(shape, sizes, 1500) <= 0.06


def test_collapsing_scores_with_unequal_numbers_of_seeds_quickly():
    assert error_rate("collapsing", (5, 20), 100) <= 0.06 + room(0.05, 100)  # Welch's t alone errs in 0.17


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("shape", ["normal", "skewed", "collapsing", "two groups"])
def test_so_are_any_two_of_four_equal_algorithms(shape, seeds):
    assert error_rate(shape, [seeds] * 4, 1500) <= 0.06 + room(0.05, 1500) / 2  # 0.057 at most, over 40 000 repetitions


@pytest.mark.parametrize("seeds", [5, 20])
def test_any_two_of_four_equal_algorithms_quickly(seeds):
    assert error_rate("normal", [seeds] * 4, 60) <= 0.06 + room(0.05, 60)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 10, 20])
def test_intervals_cover_normal_scores(seeds, repetitions):
    rng = np.random.default_rng(seeds)
    hits = np.zeros(5)
    for _ in range(repetitions):
        a, b = rng.normal(1, 1, seeds), rng.normal(0, 1, seeds)
        found = [
            (mean_interval([a]), 1.0),
            (iqm_interval(a), 1.0),
            (probability_of_improvement_interval([a], [b]), special.ndtr(1 / np.sqrt(2))),
            (hedges_g_interval([a], [b]), 1.0),
            (difference_interval(a, b), 1.0),
        ]
        hits += [interval.low <= truth <= interval.high for interval, truth in found]
    assert (hits / repetitions >= 0.93 - (repetitions == FAST) * room(0.95, repetitions)).all(), hits / repetitions


def difference_interval(a, b):
    arms = Arm("a", [a], [range(len(a))]), Arm("b", [b], [range(len(b))])
    return compare_pair(*arms, declared(), comparisons=1, rng=np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_the_bootstrap_over_tasks_covers_normal_scores(seeds):
    rng = np.random.default_rng(seeds)
    centres = np.linspace(0, 1, 5)
    truth = iqm(centres + rng.normal(0, 0.3, (100_000, 5)))
    found = [
        bootstrap_interval([rng.normal(c, 0.3, seeds) for c in centres], row_iqm, rng, num_resamples=1000) for _ in range(1000)
    ]
    assert np.mean([interval.low <= truth <= interval.high for interval in found]) >= 0.93


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_the_power_is_as_promised(seeds, repetitions):
    rng = np.random.default_rng(seeds)
    gap = detectable_difference(error=np.sqrt(2 / seeds), df=2 * seeds - 2)
    found = [verdicts([rng.normal(gap, 1, seeds), rng.normal(0, 1, seeds)]) == ["better"] for _ in range(repetitions)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05 + (repetitions == FAST) * room(0.8, repetitions))


@pytest.mark.parametrize(("gap", "deviations"), [(1.5, (1.0, 1.0)), (1.0, (0.5, 1.0))])
def test_so_is_the_power_at_the_seeds_needed(gap, deviations, repetitions):
    rng = np.random.default_rng(1)
    seeds = seeds_needed(gap, deviations=deviations)
    found = [
        verdicts([rng.normal(gap, deviations[0], seeds), rng.normal(0, deviations[1], seeds)]) == ["better"]
        for _ in range(repetitions)
    ]
    assert np.mean(found) == pytest.approx(0.82, abs=0.05 + (repetitions == FAST) * room(0.8, repetitions))


def test_algorithms_at_the_margin_are_rarely_called_equivalent(repetitions):
    rng = np.random.default_rng(4)
    found = [
        verdicts([rng.normal(0.5, 0.3, 10), rng.normal(0, 0.3, 10)], margin=0.5) == ["equivalent"] for _ in range(repetitions)
    ]
    assert np.mean(found) <= 0.06 + (repetitions == FAST) * room(0.05, repetitions)


# Over seeds and prompts: two algorithms that are equal on average over all prompts, by the crossed test.


@pytest.mark.parametrize("interaction", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("seeds", "prompts"), [(5, 16), (5, 128), (10, 64), (20, 16)])
def test_algorithms_that_are_equal_over_prompts_are_rarely_called_different(kind, seeds, prompts, interaction):
    rng, repetitions = np.random.default_rng([seeds, prompts, len(kind)]), 1500
    found, _ = error_rates(rng, kind, seeds=(seeds, seeds), prompts=prompts, interaction=interaction, repetitions=repetitions)
    assert found <= 0.05 + room(0.05, repetitions)


@pytest.mark.slow
@pytest.mark.parametrize("seed_spread", [0.0, 0.3])
@pytest.mark.parametrize("interaction", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [5, 10, 20])
@pytest.mark.parametrize("prompts", [16, 64, 512])
def test_so_they_are_with_any_numbers_of_seeds_and_prompts(kind, seeds, prompts, interaction, seed_spread):
    rng = np.random.default_rng([seeds, prompts, len(kind), int(10 * seed_spread)])
    found, _ = error_rates(
        rng, kind, seeds=(seeds, seeds), prompts=prompts, interaction=interaction, repetitions=4000, seed_spread=seed_spread
    )
    assert found <= 0.06 + room(0.05, 4000) / 2


def test_on_these_prompts_alone_they_are_called_different_often():
    """What the crossed test is for: an interaction of 1 logit, 20 seeds, 64 prompts."""
    crossed_rate, welch_rate = error_rates(
        np.random.default_rng(0), "binary", seeds=(20, 20), prompts=64, interaction=1.0, repetitions=500
    )
    assert crossed_rate <= 0.05 + room(0.05, 500)
    assert welch_rate > 0.25


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_unequal_numbers_of_seeds_over_prompts(kind):
    """As `compare` judges them: the permutation test over seeds must agree."""
    rng, repetitions = np.random.default_rng(len(kind)), 600
    a, b = answers(rng, kind, seeds=(5, 20), prompts=128, interaction=0.5, repetitions=repetitions, seed_spread=0.3)
    found = []
    for x, y in zip(a, b, strict=True):
        arms = [Arm(label, [np.asarray(t, float).mean(axis=1)], [range(len(t))], tables=[t]) for label, t in (("a", x), ("b", y))]
        pair = compare_pair(*arms, declared(prompts="random"), comparisons=1, rng=rng)
        found.append(judge([pair])[0].verdict in ("better", "worse"))
    assert np.mean(found) <= 0.06 + room(0.05, repetitions) / 2


def test_the_crossed_test_finds_more_than_a_bootstrap_over_both():
    rng, options = np.random.default_rng(5), {"seeds": (10, 10), "prompts": 64, "interaction": 0.3}
    a, b = answers(rng, "binary", repetitions=400, gap=0.35, **options)
    ours, theirs = (crossed_p(a, b) < 0.05).mean(), bootstrap_excludes_zero(a, b, rng, num_resamples=200).mean()
    assert ours > theirs + 0.05


def test_with_no_interaction_little_power_is_lost_against_the_test_on_these_prompts():
    a, b = answers(np.random.default_rng(6), "binary", seeds=(10, 10), prompts=256, interaction=0.0, repetitions=800, gap=0.2)
    ours, fixed = (crossed_p(a, b) < 0.05).mean(), (welch_p(a, b) < 0.05).mean()
    assert fixed - 0.12 < ours <= fixed + 0.02


@pytest.mark.slow
def test_the_power_at_the_seeds_and_prompts_needed_is_as_promised():
    rng = np.random.default_rng(7)
    a, b = answers(rng, "real", seeds=(400, 400), prompts=400, interaction=0.4, repetitions=1, seed_spread=0.2)
    parts = [components(a[0], b[0])]
    a, b = answers(rng, "real", seeds=(8, 8), prompts=60, interaction=0.4, repetitions=1, seed_spread=0.2)
    small = [replace(parts[0], seeds=(8, 8), prompts=60)]
    gap = 0.3
    seeds, prompts = crossed_seeds_needed(gap, small), prompts_needed(gap, small)
    for size, number in ((seeds, 60), (8, prompts)):
        a, b = answers(
            rng, "real", seeds=(size, size), prompts=number, interaction=0.4, repetitions=2000, seed_spread=0.2, gap=gap
        )
        assert (crossed_p(a, b) < 0.05).mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("seed_spread", "interaction"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.1, 0.3)])
def test_the_power_is_as_promised_where_the_test_must_estimate_what_is_zero(seed_spread, interaction):
    """Estimates of components are never negative, so the test finds less than one that knows that a component is 0."""
    gap = {0.0: 0.17, 0.1: 0.19}[seed_spread] + 0.1 * interaction
    part = Components((seed_spread**2,) * 2, (1.0, 1.0), 0.0, 2 * interaction**2, (8, 8), 64)
    seeds, prompts = crossed_seeds_needed(gap, [part]), prompts_needed(gap, [part])
    assert 8 <= seeds <= 20
    assert prompts is not None
    for size, number in ((seeds, 64), (8, prompts)):
        shape = {"seeds": (size, size), "prompts": number, "repetitions": 6000, "gap": gap}
        a, b = answers(np.random.default_rng(8), "real", interaction=interaction, seed_spread=seed_spread, **shape)
        assert 0.785 < (crossed_p(a, b) < 0.05).mean() < 0.83


def test_the_power_over_tasks_is_as_promised():
    """The difference is the mean over two tasks, of which one has no effect of the seed and no interaction."""
    parts = [
        Components((0.01, 0.01), (1.0, 1.0), 0.0, 0.18, (6, 6), 64),
        Components((0.0, 0.0), (1.0, 1.0), 0.0, 0.0, (6, 6), 32),
    ]
    seeds = crossed_seeds_needed(0.15, parts)
    assert 8 <= seeds <= 20
    rng, found = np.random.default_rng(9), 0
    tables = [
        answers(rng, "real", seeds=(seeds, seeds), prompts=part.prompts, repetitions=2000, gap=0.15,
                interaction=math.sqrt(part.interaction / 2), seed_spread=math.sqrt(part.seed[0]))
        for part in parts
    ]  # fmt: skip
    for (a, b), (c, d) in zip(zip(*tables[0], strict=True), zip(*tables[1], strict=True), strict=True):
        found += crossed([a, c], [b, d]).p < 0.05
    assert 0.78 < found / 2000 < 0.84


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_means_of_unlike_shapes_err_and_the_chance_of_beating_does_not(seeds):
    """The collapsing side has the mean of the other, or its chance of beating is one half: `measured` states both."""
    rng, repetitions = np.random.default_rng(seeds), 1000
    wrong = np.zeros(2)
    for _ in range(repetitions):
        steady = rng.normal(0.68, 0.02, seeds)
        wrong[0] += verdicts([SHAPES["collapsing"](rng, seeds), steady]) != ["inconclusive"]
        shifted = np.where(rng.random(seeds) < 0.2, -10.0, rng.normal(np.sqrt(2) * special.ndtri(0.625), 1, seeds))
        wrong[1] += chance_p(shifted, rng.normal(size=seeds), rng, num_permutations=999) < 0.05
    assert wrong[0] / repetitions > 0.07
    assert wrong[1] / repetitions <= 0.06 + room(0.05, repetitions) / 2
