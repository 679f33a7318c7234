import numpy as np
import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.statistics.interval import shapiro_wilk_p
from tests.comparison.records import answers_of, normal_scores, write_run, write_sweep

LOW, HIGH = normal_scores(0.5, 0.02, 6, seed=1), normal_scores(0.6, 0.02, 6, seed=2)


def texts(comparison):
    return {caution.kind: caution.text for caution in comparison.cautions}


def test_fourteen_clean_seeds_with_answers_need_no_caution(tmp_path):
    scores = {"custom_dpo": normal_scores(0.5, 0.02, 14, seed=3), "hybrid": normal_scores(0.6, 0.02, 14, seed=4)}
    write_sweep(tmp_path, scores, with_answers=True)
    assert texts(compare(tmp_path)) == {}


@pytest.mark.parametrize(
    ("options", "choices", "kind", "piece"),
    [
        ({}, {}, "fewer_than_10_seeds", "about 1.8 standard deviations"),
        ({}, {"score": "best"}, "best_score", "score=best"),
        ({}, {"paired": True}, "paired", "paired=true"),
        ({"stop_at_score": 0.9, "record": {"result": None}, "status": "completed"}, {}, "", ""),
    ],
)
def test_what_was_declared_is_said(tmp_path, options, choices, kind, piece):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH}, **options)
    found = texts(compare(tmp_path, **choices))
    assert piece in found.get(kind, "")
    assert not kind or kind in found


def test_unequal_cost_is_named_with_its_ratio(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW}, tokens=1000)
    write_sweep(tmp_path, {"grpo": HIGH}, tokens=5000)
    assert "grpo spent 5.0 times the tokens of custom_dpo" in texts(compare(tmp_path))["unequal_cost"]


def test_other_code_and_confounders_are_named(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW}, optimizer__lr=0.1)
    write_sweep(tmp_path, {"grpo": HIGH}, optimizer__lr=0.2, record={"provenance": {"rlx": {"code": "other"}}})
    found = texts(compare(tmp_path))
    assert "optimizer.lr" in found["confounded"]
    assert "2 versions of the code" in found["different_code"]


def test_the_best_of_several_settings_is_to_be_confirmed_on_fresh_seeds(tmp_path):
    for weight in (0.1, 0.5, 0.9):
        for seed, score in enumerate(LOW):
            place = tmp_path / f"{weight}{seed}"
            overrides = ["algorithm=hybrid", f"algorithm.dpo_weight={weight}", f"seed={seed}"]
            write_run(
                place, algorithm="hybrid", seed=seed, score=score + weight, overrides=overrides, algorithm__dpo_weight=weight
            )
    text = texts(compare(tmp_path))["selected_on_same_seeds"]
    assert "rlx -m algorithm=hybrid algorithm.dpo_weight=0.9 'seed=range(6,16)'" in text


def test_the_caution_about_shape_says_how_much_an_interval_covers(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": [0.8, 0.81, 0.79, 0.805, 0.2], "hybrid": HIGH})
    assert "may then cover only 66 %" in texts(compare(tmp_path))["not_normal"]


def test_a_verdict_on_the_chance_of_winning_is_said_to_be_about_these_prompts(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW, "hybrid": HIGH}, with_answers=True)
    assert "prompts_fixed" not in texts(compare(tmp_path))
    assert "these 64 prompts only (question=chance)" in texts(compare(tmp_path, question="chance"))["prompts_fixed"]


def test_few_prompts_are_said(tmp_path):
    for algorithm, scores in (("custom_dpo", LOW), ("hybrid", HIGH)):
        for seed, score in enumerate(scores):
            answers = answers_of(score, seed=seed, prompts=16)
            write_run(tmp_path / f"{algorithm}{seed}", algorithm=algorithm, seed=seed, score=score, answers=answers)
    assert "16 prompts" in texts(compare(tmp_path))["few_prompts"]
    assert "few_prompts" not in texts(compare(tmp_path, prompts="fixed"))


def test_losses_of_unlike_formulas_are_said_to_be_no_one_quantity(tmp_path):
    write_sweep(tmp_path / "beta", {"custom_dpo": LOW})
    write_sweep(tmp_path / "beta2", {"custom_dpo": HIGH}, algorithm__loss__beta=0.5)
    assert "loss.beta" in texts(compare(tmp_path, metric="train/loss"))["unlike_losses"]
    assert "unlike_losses" not in texts(compare(tmp_path))


def test_a_budget_within_which_evaluations_lie_far_apart_names_what_each_had_spent(tmp_path):
    write_sweep(tmp_path, {"custom_dpo": LOW}, curve=[0.2, 0.3, 0.4, 0.5])
    write_sweep(tmp_path, {"hybrid": HIGH}, curve=[0.2, 0.3, 0.5])
    assert "(steps: custom_dpo 67 and hybrid 50)" in texts(compare(tmp_path, at="steps:80"))["at_budget"]


def test_shapes_are_judged_over_all_variants_together(tmp_path):
    """Scores that look odd at 5 % alone are not news among several variants."""
    odd = [0.629, 0.664, 0.662, 0.660, 0.629]
    assert 0.05 / 5 < shapiro_wilk_p(np.array(odd)) < 0.05
    plain = {name: normal_scores(0.6, 0.02, 5, seed=place) for place, name in enumerate(("custom_dpo", "hybrid", "dpo", "ipo"))}
    write_sweep(tmp_path, {"grpo": odd, **plain})
    assert not {"unlike_shapes", "not_normal"} & set(texts(compare(tmp_path)))
