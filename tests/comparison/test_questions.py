"""The questions that a comparison answers: over which prompts, in which direction, at what budget, against no training."""

import json

import numpy as np
import pytest

from rlx.comparison import cautions, comparison
from rlx.comparison.comparison import compare
from rlx.errors import ConfigError, EvidenceError
from rlx.report.comparison import gain_line
from tests.comparison.records import answers_of, normal_scores, write_run, write_sweep
from tests.comparison.test_cautions import texts

LOW, HIGH = normal_scores(0.5, 0.02, 6, seed=1), normal_scores(0.6, 0.02, 6, seed=2)


def interacting(root, *, prompts=24, seeds=8, spread=0.3):
    """Two algorithms of which each is better on some prompts; one of them by chance on more of these."""
    rng = np.random.default_rng(3)
    own = {name: rng.normal(0, spread, prompts) for name in ("custom_dpo", "hybrid")}
    own["hybrid"] += own["custom_dpo"].mean() - own["hybrid"].mean() + 0.08
    for name, effect in own.items():
        for seed in range(seeds):
            answers = 0.5 + effect + rng.normal(0, 0.02, prompts)
            write_run(root / f"{name}{seed}", algorithm=name, seed=seed, score=float(answers.mean()), answers=list(answers))
    return root


def test_a_verdict_about_these_prompts_is_none_about_others(tmp_path):
    interacting(tmp_path)
    everywhere, here = compare(tmp_path), compare(tmp_path, prompts="fixed")
    assert (everywhere.pairs[0].verdict, here.pairs[0].verdict) == ("inconclusive", "better")
    assert "may be chance, over seeds and prompts" in everywhere.pairs[0].words
    assert "on these 24 prompts" in here.pairs[0].words
    assert "prompts=fixed" in texts(here)["prompts_fixed"]
    assert everywhere.pairs[0].p_fixed == pytest.approx(here.pairs[0].p)
    assert everywhere.variants[0].first_probability < 0.95 < here.variants[0].first_probability


def test_the_components_and_what_halves_the_interval_are_in_the_dictionary(tmp_path):
    pair = compare(interacting(tmp_path)).to_dict()["pairs"][0]
    part = pair["components"][0]
    assert np.sqrt(part["interaction"]) == pytest.approx(0.3 * np.sqrt(2), rel=0.3)
    assert np.sqrt(part["residual"]) == pytest.approx([0.02, 0.02], rel=0.2)
    assert pair["halving"]["seeds"] is None
    assert 60 < pair["halving"]["prompts"] < 150
    assert (pair["seeds_needed"], pair["cheapest"], pair["num_prompts"]) == (None, "prompts", 24)
    assert pair["prompts_needed"] > 24


def test_without_answers_the_verdict_is_about_these_prompts_and_says_so(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW}, with_answers=True)
    write_sweep(tmp_path, {"hybrid": HIGH})
    found = compare(tmp_path)
    assert not found.pairs[0].over_prompts
    assert "no scores of several prompts that average to the score are recorded for hybrid" in texts(found)["answers_missing"]


def test_a_failed_run_spreads_seeds_and_not_prompts(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH}, with_answers=True)
    clean = compare(tmp_path).pairs[0].components[0]
    write_run(tmp_path / "broken", algorithm="hybrid", seed=9, status="failed", score=None, curve=[0.3, 0.1])
    broken = compare(tmp_path).pairs[0]
    part = broken.components[0]
    assert broken.over_prompts
    assert broken.n_a == 7
    assert part.seed[0] > 10 * clean.seed[0]
    assert part.residual == pytest.approx(clean.residual, rel=0.3)


@pytest.mark.parametrize("metric", ["eval/kl", "-eval/drift"])
def test_where_lower_is_better_the_lower_one_is_better(tmp_path, metric):
    name = metric.lstrip("-")
    for algorithm, scores in {"custom_dpo": LOW, "hybrid": HIGH}.items():
        for seed, score in enumerate(scores):
            run = write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed)
            rows = [{"step": step, name: value} for step, value in ((0, 0.9), (100, score))]
            (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            record = json.loads((run / "run.json").read_text())
            record["result"]["performance_metrics"] = {}
            (run / "run.json").write_text(json.dumps(record))
    write_run(tmp_path / "broken", algorithm="hybrid", seed=9, status="failed", score=None, curve=[])
    found = compare(tmp_path, metric=metric)
    pair, best = found.pair("custom_dpo", "hybrid"), found.variants[0]
    assert (best.label, best.best, best.worst) == ("custom_dpo", min(LOW), max(LOW))
    assert (pair.verdict, pair.difference < 0) == ("better", True)
    assert pair.probability_of_improvement == 1.0
    assert found.scores("hybrid")[-1] == 0.9  # the worst of any run at any evaluation
    assert best.gain == (None if metric == "eval/kl" else pytest.approx(-0.4))
    assert "has the lowest mean" in str(found) or "custom_dpo is the best" in str(found)
    assert compare(tmp_path, metric=name, lower_is_better=False).pair("hybrid", "custom_dpo").verdict == "better"


def test_a_metric_without_direction_is_refused_and_an_unknown_one_is_answered_with_the_nearest(tmp_path):
    run = write_run(tmp_path / "a")
    write_run(tmp_path / "b", algorithm="hybrid")
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 100, "eval/drift": 1.0}) + "\n")
    with pytest.raises(ConfigError, match="lower_is_better=true"):
        compare(tmp_path, metric="eval/drift", allow=["single", "unfinished"])
    with pytest.raises(ConfigError, match="did you mean eval/score"):
        compare(tmp_path, metric="eval/scor")
    with pytest.raises(ConfigError, match="says that lower is better"):
        compare(tmp_path, metric="-eval/kl", lower_is_better=False)


def test_the_chance_of_beating_is_another_question(tmp_path):
    collapsing = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.97, 0.1, 0.98]
    write_sweep(tmp_path, {"hybrid": collapsing, "custom_dpo": normal_scores(0.8, 0.01, 10, seed=1)})
    mean, chance = (
        compare(tmp_path).pair("hybrid", "custom_dpo"),
        compare(tmp_path, question="chance").pair("hybrid", "custom_dpo"),
    )
    assert (mean.verdict, chance.verdict) == ("inconclusive", "better")
    assert "a run of it is better in 90 % of cases" in chance.words
    assert "unlike" in texts(compare(tmp_path))["unlike_shapes"]
    assert "unlike_shapes" not in texts(compare(tmp_path, question="chance"))
    with pytest.raises(ConfigError, match="takes no margin"):
        compare(tmp_path, question="chance", margin=0.1)


def test_collapses_are_counted_with_an_exact_interval(tmp_path):
    write_sweep(tmp_path, {"hybrid": [0.9, 0.91, 0.1, 0.92, 0.93], "custom_dpo": [0.5, 0.51, 0.52, 0.53, 0.54]})
    write_run(tmp_path / "broken", algorithm="hybrid", seed=9, status="failed", score=None, curve=[0.3, 0.2])
    by_label = {row.label: row for row in compare(tmp_path, collapse=0.2).variants}
    assert (by_label["hybrid"].collapsed, by_label["custom_dpo"].collapsed) == (2, 0)
    assert by_label["hybrid"].collapse_interval.low == pytest.approx(0.0433, abs=1e-4)  # 2 of 6
    assert by_label["custom_dpo"].collapse_interval.high == pytest.approx(1 - 0.025 ** (1 / 5))
    assert (
        "with 5 seeds a collapse of 20 % of runs goes unseen with probability 33 %" in texts(compare(tmp_path))["collapse_unseen"]
    )
    assert {row.label: row.collapsed for row in compare(tmp_path).variants}["hybrid"] == 2  # worse than the 0.3 before training


def test_the_untrained_policy_is_a_row_and_every_variant_has_its_gain(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": normal_scores(0.3, 0.05, 6, seed=1), "hybrid": HIGH})
    found = compare(tmp_path)
    assert (found.untrained.mean, found.untrained.n) == (pytest.approx(0.3), 6)
    assert found.untrained.interval is None  # one policy, and no spread over seeds
    gains = {row.label: row.gain for row in found.variants}
    assert gains == {"hybrid": pytest.approx(0.3), "custom_dpo": pytest.approx(0.0, abs=1e-12)}
    assert "custom_dpo: not shown to differ from the untrained policy" in texts(found)["no_gain"]
    assert found.to_dict()["untrained"]["label"] == "untrained (step 0)"


def test_the_gain_is_over_prompts_where_both_evaluations_kept_their_answers(tmp_path):
    for seed, score in enumerate(HIGH):
        run = write_run(tmp_path / f"a{seed}", seed=seed, score=score)
        rows = [{"step": 0, "score": answers_of(0.3, seed=seed)}, {"step": 100, "score": answers_of(score, seed=seed)}]
        (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = compare(tmp_path).variants[0]
    assert row.gain_over_prompts
    assert row.gain_interval.low <= row.gain <= row.gain_interval.high
    assert row.gain == pytest.approx(0.3)


def test_scores_at_a_budget_need_no_equal_number_of_steps(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW}, curve=[0.2, 0.3, 0.4, 0.5])
    write_sweep(tmp_path, {"hybrid": HIGH}, curve=[0.2, 0.5], num_steps=50)
    with pytest.raises(EvidenceError, match="unequal num_steps"):
        compare(tmp_path)
    found = compare(tmp_path, at="steps:50")
    assert {row.label: row.mean for row in found.variants} == {"custom_dpo": pytest.approx(0.3), "hybrid": pytest.approx(0.5)}
    assert "within steps:50 (steps: custom_dpo 33 and hybrid 50)" in texts(found)["at_budget"]
    with pytest.raises(EvidenceError, match=r"ended after 50 steps, before at=steps:80\n +compare at=steps:50, which all"):
        compare(tmp_path, at="steps:80")
    beyond = compare(tmp_path, at="steps:80", allow=["budget"])  # a run that spent less keeps its score
    assert {row.label: row.imputed for row in beyond.variants} == {"custom_dpo": 0, "hybrid": 0}
    assert beyond.pair("hybrid", "custom_dpo").difference == pytest.approx(0.1)
    with pytest.raises(EvidenceError, match="have no evaluation within at=steps:30 except the one before"):
        compare(tmp_path, at="steps:30")


@pytest.mark.parametrize("at", ["200k", "tokens", "tokens:-1", "hours:2", "tokens:1.2.3"])
def test_what_is_no_budget_is_said(at):
    with pytest.raises(ConfigError, match="write a budget such as"):
        compare("nowhere", at=at)


def test_identical_variants_name_the_key_that_does_nothing(tmp_path):
    for weight in (0.1, 0.2):
        for seed, score in enumerate(LOW):
            write_run(tmp_path / f"{weight}{seed}", seed=seed, score=score, algorithm__my_weight=weight)
    found = compare(tmp_path)
    assert "algorithm.my_weight has no effect here" in texts(found)["identical_variants"]
    assert "identical runs" in found.pairs[0].words
    assert found.pairs[0].identical


def test_configs_are_held_against_each_other_once_for_all_identical_pairs(tmp_path, monkeypatch):
    for weight in (0.1, 0.2, 0.3, 0.4):
        for seed, score in enumerate(LOW):
            write_run(tmp_path / f"{weight}{seed}", seed=seed, score=score, algorithm__my_weight=weight)
    calls = []
    monkeypatch.setattr(cautions, "config_differences", lambda grouping: calls.append(grouping) or {})
    assert sum(pair.identical for pair in compare(tmp_path).pairs) == 6
    assert len(calls) == 1


def test_pairing_is_mentioned_with_the_correlation_and_never_chosen_by_it(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": [score + 0.001 * (seed % 2) for seed, score in enumerate(LOW)]})
    found = compare(tmp_path)
    assert found.pairs[0].test == "Welch's t"
    assert found.pairs[0].seed_correlation > 0.99
    assert "over 6 seeds" in texts(found)["pairing_possible"]
    assert "not because of this figure" in texts(found)["pairing_possible"]
    paired = texts(compare(tmp_path, paired=True))
    assert "pairing_possible" not in paired
    assert "standard deviations of the differences" in paired["fewer_than_10_seeds"]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("torch", {"record": {"provenance": {"packages": {"torch": "2.12"}}}}),
        ("CPU", {"record": {"provenance": {"cpu": {"name": "other"}}}}),
        ("device", {"device": "cuda"}),
        ("precision", {"precision": "bfloat16"}),
        ("dtype of weights", {"policy__dtype": "bfloat16"}),
        ("threads", {"record": {"threads": 8}}),
        ("ranks", {"ranks": 2}),
        ("ranks", {"record": {"resumed": [{"step": 5, "ranks_before": 4, "ranks": 1}]}}),
    ],
)
def test_another_environment_of_one_side_is_named(tmp_path, name, options):
    base = {"record": {"provenance": {"packages": {"torch": "2.13"}, "cpu": {"name": "one"}}}, "device": "cpu"}
    write_sweep(tmp_path, {"custom_dpo": LOW}, **base, policy__dtype="float32")
    write_sweep(tmp_path, {"hybrid": HIGH}, **{**base, "policy__dtype": "float32", **options})
    assert f"{name} (" in texts(compare(tmp_path))["different_environment"]


def test_a_device_that_was_chosen_by_the_machine_is_named_from_the_record(tmp_path):
    for name, kind, scores in (("custom_dpo", "cpu", LOW), ("hybrid", "cuda (A100)", HIGH)):
        write_sweep(tmp_path / "known", {name: scores}, device="auto", record={"provenance": {"device": kind}})
    assert "device (custom_dpo cpu and hybrid cuda (A100))" in texts(compare(tmp_path / "known"))["different_environment"]
    write_sweep(tmp_path / "old", {"custom_dpo": LOW}, device="auto", record={"provenance": {"device": "cpu"}})
    write_sweep(tmp_path / "old", {"hybrid": HIGH}, device="auto")  # a record of before does not tell
    assert "different_environment" not in texts(compare(tmp_path / "old"))


def test_variants_that_are_known_to_have_answered_other_prompts_get_no_verdict(tmp_path):
    """Their scores may differ by the prompts alone, however many seeds there are."""
    for name, digest, scores in (("custom_dpo", "1111", LOW), ("hybrid", "2222", HIGH)):
        write_sweep(tmp_path, {name: scores}, with_answers=True, digest=digest)
    for choices in ({}, {"prompts": "fixed"}, {"question": "chance"}, {"margin": 0.5}):
        found = compare(tmp_path, **choices)
        pair = found.pairs[0]
        assert (pair.verdict, pair.p, pair.seeds_needed) == ("inconclusive", None, None)
        assert "they answered different held-out prompts" in pair.words
        assert "arithmetic: the runs answered 2 different sets of held-out prompts" in texts(found)["different_prompts"]


def test_runs_that_are_known_to_have_answered_other_prompts_are_not_crossed(tmp_path):
    for name, digest in (("custom_dpo", "1111"), ("hybrid", "2222")):
        write_sweep(tmp_path, {name: LOW}, with_answers=True, digest=digest)
    answers = answers_of(0.5, seed=9)
    write_run(tmp_path / "other", algorithm="hybrid", seed=9, score=0.5, answers=answers, digest="1111")
    found = compare(tmp_path)
    assert not found.pairs[0].over_prompts
    assert found.pairs[0].p is not None
    assert "did not all answer the same prompts (custom_dpo and hybrid)" in texts(found)["answers_missing"].replace(
        "hybrid and custom_dpo", "custom_dpo and hybrid"
    )
    assert "arithmetic: the runs answered 2 different sets of held-out prompts" in texts(found)["different_prompts"]
    assert texts(compare(tmp_path, prompts="fixed"))["different_prompts"]


@pytest.mark.parametrize("other", ["1111", None])
def test_runs_of_the_same_prompts_or_of_before_digests_are_crossed(tmp_path, other):
    for name, digest in (("custom_dpo", "1111"), ("hybrid", other)):
        write_sweep(tmp_path, {name: LOW}, with_answers=True, digest=digest)
    found = compare(tmp_path)
    assert found.pairs[0].over_prompts
    assert "different_prompts" not in texts(found)


def test_equal_environments_give_no_caution(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH}, device="cpu")
    assert "different_environment" not in texts(compare(tmp_path))


def test_a_seed_of_two_config_hashes_is_said(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH})
    write_run(tmp_path / "again", seed=3, score=0.9, record={"config_hash": "other"})
    found = compare(tmp_path)
    assert "seed 3 of custom_dpo: run more than once under different config hashes" in texts(found)["averaged_seeds"]
    assert {row.label: (row.n, row.runs) for row in found.variants}["custom_dpo"] == (6, 7)


def test_percent_beside_fractions_is_said(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": [100 * score for score in HIGH]})
    assert "hybrid look like percent and custom_dpo like fractions" in texts(compare(tmp_path))["unequal_units"]


def test_without_a_winner_nobody_is_almost_surely_first(tmp_path):
    for place, gap in enumerate((0.024, 0.026, 0.028)):
        root = tmp_path / str(place)
        write_sweep(root, {"custom_dpo": LOW, "hybrid": normal_scores(0.5 + gap, 0.02, 6, seed=2)})
        found = compare(root)
        first = found.variants[0].first_probability
        assert (first >= 0.95) == (found.pairs[0].verdict == "better")
        assert sum(row.first_probability for row in found.variants) == pytest.approx(1)


def test_losses_are_no_settings_of_one_search(tmp_path):
    for name in ("Dpo", "Ipo", "Slic"):
        loss = {"_target_": f"rlx.loss.preference.margin.{name}", name.lower(): 0.1}
        for seed, score in enumerate(LOW):
            write_run(tmp_path / f"{name}{seed}", seed=seed, score=score, loss=loss, algorithm__loss=loss)
    found = compare(tmp_path)
    assert (found.searches, found.settings) == ((), ())


def test_of_very_many_pairs_those_of_the_best_are_compared_and_adjusted_for_all(tmp_path, monkeypatch):
    write_sweep(tmp_path, {name: normal_scores(0.5 + place / 40, 0.02, 6, seed=place) for place, name in enumerate("abcde")})
    every = compare(tmp_path)
    monkeypatch.setattr(comparison, "MOST_PAIRS", 9)
    few = compare(tmp_path)
    assert (len(every.pairs), len(few.pairs)) == (10, 4)
    assert {pair.a for pair in few.pairs} == {"e"}
    smallest = min(few.pairs, key=lambda pair: pair.p)
    assert smallest.p_adjusted == pytest.approx(10 * smallest.p)
    assert "of 10 pairs only those" in texts(few)["pairs_left_out"]
    assert len(compare(tmp_path, baseline="a").pairs) == 4


def test_what_every_training_adds_to_knows_no_gain_and_no_collapse(tmp_path):
    for algorithm in ("custom_dpo", "hybrid"):
        for seed in range(6):
            place = write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, kl=0.4 + seed / 100)
            first, *rest = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            rows = [{**first, "eval/kl": 0.0, "eval/loss": 0.9}, *({**row, "eval/loss": 0.7 + seed / 100} for row in rest)]
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(tmp_path, metric="eval/kl")
    assert [(row.gain, row.collapsed) for row in found.variants] == [(None, None)] * 2
    assert found.untrained is None
    assert gain_line(found) == ""
    assert [row.collapsed for row in compare(tmp_path, metric="eval/kl", collapse=0.425).variants] == [3, 3]
    found = compare(tmp_path, metric="eval/loss")
    assert [row.collapsed for row in found.variants] == [0, 0]
    assert "Change from it, of which less is better, on these prompts: custom_dpo -0.175" in gain_line(found)


def test_the_chance_of_winning_goes_before_the_means(tmp_path):
    """One collapses twice and wins all other comparisons: the other has the higher mean, and loses most often."""
    steady, risky = normal_scores(0.5, 0.01, 10, seed=3), [*normal_scores(0.55, 0.01, 8, seed=4), 0.1, 0.12]
    write_sweep(tmp_path, {"custom_dpo": steady, "grpo": risky})
    found = compare(tmp_path, question="chance")
    assert (found.variants[0].label, found.pair("grpo", "custom_dpo").verdict) == ("custom_dpo", "better")
    assert str(found).startswith("grpo is the best: a run of it beats")
    assert {row.first_probability for row in found.variants} == {None}


def test_a_single_prompt_tells_nothing_about_others(tmp_path):
    for algorithm, scores in (("custom_dpo", LOW), ("hybrid", HIGH)):
        for seed, score in enumerate(scores):
            write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, score=score, answers=[score])
    found = compare(tmp_path)
    assert not found.pairs[0].over_prompts
    assert "no scores of several prompts" in texts(found)["answers_missing"]
    assert found.variants[0].first_probability > 0.9
