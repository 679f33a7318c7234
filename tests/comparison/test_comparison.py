import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from rlx.comparison.comparison import compare, judge, swapped
from rlx.errors import ConfigError, EvidenceError
from tests.comparison.records import normal_scores, write_run, write_sweep
from tests.comparison.test_pair import arm, pair_of

LOW, HIGH = normal_scores(0.5, 0.02, 8, seed=1), normal_scores(0.6, 0.03, 8, seed=2)


def kinds(comparison):
    return {caution.kind for caution in comparison.cautions}


def test_numbers_and_verdict_of_a_clear_case(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    comparison = compare(tmp_path)
    pair = comparison.pairs[0]
    theirs = stats.ttest_ind(HIGH, LOW, equal_var=False)
    assert (pair.a, pair.b, pair.verdict, pair.test) == ("hybrid", "custom_dpo", "better", "Welch's t")
    assert (pair.difference, pair.p) == pytest.approx((0.1, theirs.pvalue))
    assert (pair.low, pair.high) == pytest.approx(tuple(theirs.confidence_interval()))
    first = comparison.variants[0]
    assert (first.label, first.rank, first.n) == ("hybrid", 1, 8)
    assert (first.mean, first.std, first.iqm) == pytest.approx((0.6, 0.03, stats.trim_mean(HIGH, 0.25)))
    assert comparison.scores("hybrid").tolist() == HIGH
    assert "hybrid is better than custom_dpo by 0.100" in pair.words


def test_the_schema_of_the_issue(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    values = compare(tmp_path).to_dict()
    assert (values["schema"], values["schema_version"]) == ("rlx.comparison", 1)
    variant, pair = values["variants"][0], values["pairs"][0]
    assert {"label", "n", "failed", "scores", "mean", "std", "iqm", "interval"} <= set(variant)
    assert {"low", "high", "level", "method"} == set(variant["interval"])
    assert {
        *("a", "b", "difference", "low", "high", "test", "p", "p_adjusted", "effect_size", "probability_of_improvement"),
        *("verdict", "minimum_detectable_difference", "seeds_needed"),
    } <= set(pair)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_a_baseline_is_compared_with_each_and_with_nothing_else(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH, "grpo": LOW})
    comparison = compare(tmp_path, baseline="custom_dpo")
    assert [(pair.a, pair.b) for pair in comparison.pairs] == [("hybrid", "custom_dpo"), ("grpo", "custom_dpo")]
    with pytest.raises(EvidenceError, match="were not compared"):
        comparison.pair("hybrid", "grpo")


def test_a_pair_can_be_read_from_both_sides(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    comparison = compare(tmp_path)
    back = comparison.pair("custom_dpo", "hybrid")
    assert (back.verdict, back.difference) == ("worse", pytest.approx(-0.1))
    assert back.words.startswith("custom_dpo is worse than hybrid by 0.100")
    assert back.low == -comparison.pairs[0].high


def test_p_is_adjusted_over_all_pairs(tmp_path):
    write_sweep(tmp_path, {name: normal_scores(mean, 0.02, 6, seed=place) for place, (name, mean) in enumerate(MEANS.items())})
    comparison = compare(tmp_path)
    raw = sorted(pair.p for pair in comparison.pairs)
    adjusted = sorted(pair.p_adjusted for pair in comparison.pairs)
    assert len(raw) == 6
    assert adjusted[0] == pytest.approx(6 * raw[0])


MEANS = {"custom_dpo": 0.5, "dpo": 0.51, "grpo": 0.53, "hybrid": 0.56}


def test_little_data_is_inconclusive_and_says_what_would_settle_it(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": normal_scores(0.5, 0.05, 5, seed=1), "hybrid": normal_scores(0.52, 0.05, 5, seed=2)})
    pair = compare(tmp_path).pairs[0]
    assert pair.verdict == "inconclusive"
    assert pair.minimum_detectable_difference == pytest.approx(2.024 * 0.05, abs=1e-3)
    assert pair.seeds_needed == 100
    assert pair.seeds_needed_at_most > 100
    for piece in ("may be chance", "5 seeds could have detected a difference of 0.101 or more", "needs about 100 seeds each"):
        assert piece in pair.words


def test_a_large_difference_needs_as_many_seeds_as_carry_a_verdict(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": normal_scores(0.5, 0.01, 3, seed=1), "hybrid": normal_scores(0.7, 0.01, 3, seed=2)})
    pair = compare(tmp_path).pairs[0]
    assert pair.seeds_needed < 5
    assert "one of this size needs 5 seeds each, the minimum for a verdict" in pair.words


def test_equivalence_needs_a_declared_margin(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": normal_scores(0.5, 0.005, 8, seed=1), "hybrid": normal_scores(0.502, 0.005, 8, seed=2)})
    assert compare(tmp_path).pairs[0].verdict == "inconclusive"
    pair = compare(tmp_path, margin=0.02).pairs[0]
    assert pair.verdict == "equivalent"
    assert "less than the margin of 0.020" in pair.words


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_below_five_seeds_everything_is_exploratory(tmp_path, seeds):
    write_sweep(tmp_path, {"custom_dpo": LOW[:seeds], "hybrid": HIGH[:seeds]})
    comparison = compare(tmp_path, margin=0.5)
    assert comparison.pairs[0].verdict == "exploratory"
    assert comparison.pairs[0].p is not None
    [text] = [caution.text for caution in comparison.cautions if caution.kind == "fewer_than_5_seeds"]
    first, second = text.partition("; run 10 of each: ")[2].split(" && ")
    assert {first.split()[2], second.split()[2]} == {"algorithm=custom_dpo", "algorithm=hybrid"}


def test_one_seed_is_refused_with_what_to_run(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW[:1], "hybrid": HIGH[:1]})
    with pytest.raises(EvidenceError, match=r"rlx -m algorithm=hybrid 'seed=range\(0,10\)'") as refused:
        compare(tmp_path)
    assert "allow=[single]" in str(refused.value)
    comparison = compare(tmp_path, allow="single")
    assert comparison.pairs[0].verdict == "exploratory"
    assert comparison.pairs[0].p is None
    assert "a single run is not evidence" in comparison.pairs[0].words
    assert "allowed_single" in kinds(comparison)
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_pairs_are_only_made_when_declared(tmp_path):
    base = np.array(normal_scores(0.5, 0.1, 6, seed=1))
    other = base + 0.02 + np.array(normal_scores(0, 0.005, 6, seed=2))
    write_sweep(tmp_path, {"custom_dpo": list(base), "hybrid": list(other)})
    assert compare(tmp_path).pairs[0].verdict == "inconclusive"
    declared = compare(tmp_path, paired=True)
    assert declared.pairs[0].verdict == "better"
    assert declared.pairs[0].p == pytest.approx(stats.ttest_rel(other, base).pvalue)
    assert "paired" in kinds(declared)


def test_pairs_without_a_partner_are_counted(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH[:6]})
    comparison = compare(tmp_path, paired=True)
    assert (comparison.pairs[0].n_a, comparison.pairs[0].n_b) == (6, 6)
    assert "unpaired_seeds" in kinds(comparison)


def test_identical_scores_are_put_into_words(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.5] * 6, "hybrid": [0.5] * 6})
    comparison = compare(tmp_path, margin=0.1)
    pair = comparison.pairs[0]
    assert (pair.verdict, pair.p, pair.effect_size, pair.seeds_needed) == ("inconclusive", None, None, None)
    assert "identical runs" in pair.words
    assert "identical_variants" in kinds(comparison)
    assert "identical_results" in kinds(comparison)


def test_runs_that_are_one_run_carry_no_verdict(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.5] * 6, "hybrid": [0.9] * 6}, noise=0.0)
    comparison = compare(tmp_path)
    assert comparison.pairs[0].verdict == "inconclusive"
    assert "identical_runs" in kinds(comparison)
    assert "they are one run, not several seeds" in comparison.pairs[0].words


def test_two_constants_from_runs_that_differ_are_told_apart_by_relabelling(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.0] * 5, "hybrid": [1.0] * 5})
    pair = compare(tmp_path).pairs[0]
    assert (pair.test, pair.verdict) == ("permutation test", "better")
    assert pair.p == pytest.approx(2 / 252)


def test_failed_runs_count_as_the_worst_or_are_left_out_as_declared(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    for seed in (20, 21, 22):
        write_run(tmp_path / f"x{seed}", algorithm="hybrid", seed=seed, status="failed", curve=[0.05], score=None)
    counted = compare(tmp_path)
    row = next(v for v in counted.variants if v.label == "hybrid")
    assert (row.n, row.failed, row.imputed, row.worst) == (11, 3, 3, 0.05)
    assert counted.pairs[0].verdict == "inconclusive"
    excluded = compare(tmp_path, failed="exclude")
    assert excluded.pairs[0].verdict == "better"
    for comparison, word in ((counted, "failed=worst"), (excluded, "favours variants that fail often")):
        assert any(word in caution.text for caution in comparison.cautions if caution.kind == "failed_runs")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"num_steps": 200}, "budget", "unequal num_steps: .*by=\\[algorithm,num_steps\\]"),
        ({"evaluation__num_prompts": 16}, "budget", "unequal evaluation.num_prompts"),
        ({"task": "other"}, "tasks", "on 2 tasks"),
        ({"status": "interrupted"}, "unfinished", "is interrupted\n.*rlx train resume="),
    ],
)
def test_what_is_unfair_is_refused_unless_allowed_and_then_shown(tmp_path, change, kind, message):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    for seed in range(30, 36):
        write_run(tmp_path / f"odd{seed}", algorithm="hybrid", seed=seed, score=0.6 + seed / 1000, **change)
    with pytest.raises(EvidenceError) as refused:
        compare(tmp_path)
    assert __import__("re").search(message, str(refused.value), __import__("re").S)
    allow = [kind, "missing"] if kind == "tasks" else [kind]
    comparison = compare(tmp_path, allow=allow)
    assert f"allowed_{kind}" in kinds(comparison)


def test_settings_of_one_seed_are_averaged_and_not_counted_as_seeds(tmp_path):
    for lr in (0.1, 0.2, 0.3):
        for seed in range(6):
            for algorithm in ("custom_dpo", "hybrid"):
                place = tmp_path / f"{algorithm}{lr}{seed}"
                write_run(place, algorithm=algorithm, seed=seed, optimizer__lr=lr, score=0.5 + lr + 0.01 * seed)
    comparison = compare(tmp_path, by="algorithm")
    assert [variant.n for variant in comparison.variants] == [6, 6]
    assert comparison.variants[0].runs == 18
    assert {"mixed_variants", "selected_on_same_seeds"} <= kinds(comparison)
    search = comparison.searches[0]
    assert search.trials == 3
    assert search.expected[-1] == pytest.approx(0.825)
    assert search.expected[0] == pytest.approx(0.725)
    assert [(s.value, s.n) for s in comparison.settings if s.algorithm == "hybrid"] == [(0.1, 6), (0.2, 6), (0.3, 6)]


def test_several_tasks_are_compared_within_each(tmp_path):
    for place, task in enumerate(("easy", "medium", "hard")):
        for index, algorithm in enumerate(("custom_dpo", "hybrid", "grpo")):
            scores = normal_scores(0.9 - 0.3 * place + 0.03 * index, 0.01, 5, seed=10 * place + index)
            write_sweep(tmp_path / task, {algorithm: scores}, task=task)
    comparison = compare(tmp_path, allow="tasks")
    pair = comparison.pair("hybrid", "custom_dpo")
    assert (pair.verdict, pair.test) == ("better", "stratified Welch's t")
    assert pair.difference == pytest.approx(0.03)
    row = comparison.variants[0]
    assert row.label == "grpo"
    assert row.iqm_interval.method == "stratified bootstrap"
    assert row.optimality_gap == pytest.approx(1 - row.mean)
    assert comparison.ranks.mean_ranks == (1, 2, 3)
    assert comparison.scores("grpo", "hard").mean() == pytest.approx(0.36)


def test_scores_that_do_not_look_normal_are_said_to(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.8, 0.81, 0.79, 0.805, 0.2], "hybrid": [0.8, 0.81, 0.79, 0.805, 0.82]})
    assert "not_normal" in kinds(compare(tmp_path))


def test_prompts_are_paired_where_both_answered_them(tmp_path):
    rng = np.random.default_rng(0)
    easy = (rng.random(64) < 0.5).astype(float)
    for seed in range(5):
        better = np.maximum(easy, rng.random(64) < 0.2)
        write_run(tmp_path / f"a{seed}", seed=seed, score=easy.mean(), answers=list(easy))
        write_run(tmp_path / f"b{seed}", seed=seed, score=better.mean(), algorithm="hybrid", answers=list(better))
    comparison = compare(tmp_path)
    difference, error = comparison.prompt_differences["hybrid - custom_dpo"]
    assert difference > 0
    assert error < np.sqrt(0.5 / 64)  # less than without pairing


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"failed": "wrost"}, "did you mean worst"),
        ({"score": "max"}, "last, best"),
        ({"allow": "budgets"}, "did you mean budget"),
        ({"margin": 0}, "above 0"),
        ({"level": 95}, "level=95: it must be a finite number at least 0.5 and below 1"),
        ({"baselin": "x"}, "did you mean baseline"),
        ({"baseline": "hybrd"}, "did you mean hybrid"),
        ({"where": "seed>100"}, "none of them matches"),
    ],
)
def test_wrong_choices_are_answered_with_the_right_ones(tmp_path, choice, message):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    with pytest.raises((ConfigError, EvidenceError), match=message):
        compare(tmp_path, **choice)


def test_the_same_records_give_the_same_comparison(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH, "grpo": [*LOW, *HIGH]})
    assert compare(tmp_path).to_dict() == compare(tmp_path).to_dict()


def test_it_reads_as_its_verdicts(comparison):
    assert str(comparison).startswith("hybrid is the best")
    assert comparison.pairs[0].words in str(comparison)
    assert len(repr(comparison)) < 500


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
