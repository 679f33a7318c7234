from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rlx.comparison.choices import Choices
from rlx.comparison.pair import Arm, common_seeds, compare_pair
from rlx.comparison.statistics.crossed import crossed
from rlx.errors import EvidenceError


def arm(label, scores, seeds=None, **options):
    return Arm(label, [np.array(scores, float)], [list(range(len(scores))) if seeds is None else seeds], **options)


def pair_of(a, b, *, is_paired=False, comparisons=1, rng=None, **declared):
    choices = Choices.declared(**{"prompts": "fixed", "paired": is_paired, **declared})
    return compare_pair(a, b, choices, comparisons=comparisons, rng=np.random.default_rng(0) if rng is None else rng)


A, B = np.random.default_rng(1).normal(0.6, 0.1, 6), np.random.default_rng(2).normal(0.5, 0.2, 6)


def test_about_equal_numbers_of_seeds_use_welch():
    pair = pair_of(arm("a", A), arm("b", B))
    assert (pair.test, pair.p) == ("Welch's t", pytest.approx(stats.ttest_ind(A, B, equal_var=False).pvalue))


def test_very_unequal_numbers_take_the_larger_p():
    skewed = np.exp(np.random.default_rng(5).normal(size=12))
    few = skewed[:4] * 0.1
    pair = pair_of(arm("a", few), arm("b", skewed))
    assert pair.test == "Welch's t, checked by permutation"
    assert pair.p >= stats.ttest_ind(few, skewed, equal_var=False).pvalue
    assert "very unequal numbers of seeds" in pair.reason


def test_very_unequal_numbers_are_relabelled_with_what_other_prompts_add():
    rng, tables = np.random.default_rng(0), []
    collapsed = np.where(np.arange(20) < 4, -2.0, 0.0)  # four runs of twenty; none of the other five
    for runs, shift in ((np.zeros(5), 0.05), (collapsed, -0.05)):
        own = rng.normal(size=64)  # effects on single prompts, which are equal on average but for `shift`
        tables.append(0.7 * (own - own.mean()) + shift + runs[:, None] + rng.normal(0, 0.3, (len(runs), 64)))
    a, b = (replace(arm(name, table.mean(axis=1)), tables=[table]) for name, table in zip("ab", tables, strict=True))
    pair = pair_of(a, b, prompts="random")
    assert pair.test == "crossed t, checked by permutation"
    assert max(pair.p_fixed, crossed([tables[0]], [tables[1]]).p) < 0.05
    assert pair.p > 0.08


def test_the_choice_of_the_test_does_not_depend_on_the_scores():
    tests = {pair_of(arm("a", np.random.default_rng(i).lognormal(size=6)), arm("b", B)).test for i in range(20)}
    assert tests == {"Welch's t"}


def test_pairs_are_matched_by_seed_whatever_their_order():
    a, b = common_seeds(arm("a", [1, 2, 3], [7, 8, 9]), arm("b", [30, 20, 10], [9, 8, 5]))
    assert a.scores[0].tolist() == [2, 3]
    assert b.scores[0].tolist() == [20, 30]
    with pytest.raises(EvidenceError, match="share no seed"):
        pair_of(arm("a", [1, 2], [0, 1]), arm("b", [1, 2], [2, 3]), is_paired=True)


def test_more_comparisons_ask_for_more_seeds():
    alone, among = (pair_of(arm("a", A), arm("b", B), comparisons=count) for count in (1, 10))
    assert among.minimum_detectable_difference > alone.minimum_detectable_difference
    assert among.seeds_needed > alone.seeds_needed
    assert among.p == alone.p


def test_a_constant_shift_of_pairs_is_tested_by_its_signs():
    pair = pair_of(arm("a", [0.25, 0.5, 0.75, 1, 1.25, 1.5]), arm("b", [0, 0.25, 0.5, 0.75, 1, 1.25]), is_paired=True)
    assert (pair.test, pair.p) == ("sign test", 2**-5)


def test_paired_effect_size_is_that_of_the_arms_with_an_interval_of_the_pairs():
    other = A + np.random.default_rng(3).normal(0.05, 0.01, 6)
    loose, tight = (pair_of(arm("a", other), arm("b", A), is_paired=paired) for paired in (False, True))
    assert loose.effect_size == pytest.approx(tight.effect_size)
    width = [pair.effect_size_interval.high - pair.effect_size_interval.low for pair in (loose, tight)]
    assert width[1] < width[0] / 2
    assert tight.effect_size_interval.low < tight.effect_size < tight.effect_size_interval.high


def test_one_run_has_no_test():
    pair = pair_of(arm("a", [1.0]), arm("b", B))
    assert (pair.test, pair.p, pair.p_adjusted, pair.seeds_needed) == ("none", None, None, None)
