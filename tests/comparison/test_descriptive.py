import itertools

import numpy as np
import pytest

from rlx.comparison.comparison import compare
from rlx.comparison.descriptive import Said, contest
from tests.comparison.records import write_run


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    root = tmp_path_factory.mktemp("searched")
    for lr in (0.1, 0.2, 0.4):
        for seed in range(5):
            score = 0.5 + lr / 2 + seed / 100
            write_run(root / f"{lr}{seed}", seed=seed, optimizer__lr=lr, score=score, tokens=100, kl=lr)
    write_run(root / "broken", seed=5, optimizer__lr=0.1, status="failed", score=None, curve=[0.3, 0.1, 0.05])
    return compare(root)


def test_curves_hold_every_run_and_average_the_completed_ones(searched):
    curve = next(c for c in searched.curves if c.variant.endswith("0.1"))
    assert curve.steps.tolist() == [0, 25, 50, 75, 100]
    assert curve.mean[-1] == pytest.approx(0.57)
    assert len(curve.runs) == 6
    assert np.isfinite(curve.low).all()


def test_the_effect_of_a_swept_key_is_over_seeds(searched):
    points = [(s.value, s.n, round(s.mean, 3)) for s in searched.settings]
    assert points[1:] == [(0.2, 5, 0.62), (0.4, 5, 0.72)]
    assert searched.settings[0].name == "lr"


def test_a_search_is_told_by_its_trials_and_its_cost(searched):
    search = searched.searches[0]
    assert (search.algorithm, search.trials) == ("custom_dpo", 3)
    assert search.expected[-1] == pytest.approx(0.72)
    assert search.tokens == 500


def test_searches_of_one_algorithm_are_told_apart_by_their_classes(tmp_path):
    for loss, lr, seed in itertools.product(("dpo", "ipo"), (0.1, 0.2, 0.4), range(2)):
        own = {"algorithm__loss": {"_target_": f"rlx.loss.preference.margin.{loss}"}, "optimizer__lr": lr}
        write_run(tmp_path / f"{loss}{lr}{seed}", seed=seed, score=0.5 + seed / 10 + lr, **own)
    assert sorted(search.algorithm for search in compare(tmp_path).searches) == ["custom_dpo loss=dpo", "custom_dpo loss=ipo"]


def test_profiles_share_their_thresholds(searched):
    assert len(searched.profiles) == 3
    assert all(
        profile.thresholds is not None and profile.share[0] == 1 and profile.share[-1] == 0 for profile in searched.profiles
    )


def test_differences_of_configs_are_by_key_and_variant(searched):
    assert searched.config_differences["optimizer.lr"]["custom_dpo lr=0.1"] == [0.1]
    assert set(searched.config_differences) == {"optimizer.lr"}


PROMPTS = ["1+1=", "2+2=", "3+3=", "4+4="]


def kept(words):
    return [
        {"step": 100, "prompt": prompt, "completion": word, "reward": 1.0} for prompt, word in zip(PROMPTS, words, strict=False)
    ]


def write_two(root, *, answers=([1, 1, 0, 1, 1], [0, 1, 1, 1, 0]), words=("abcd", "wxyz")):
    for name, scores, said in zip(("grpo", "custom_dpo"), answers, words, strict=True):
        for seed in range(2):
            values = [float(value) for value in scores]
            mean = sum(values) / len(values) if values else 0.5
            options = {"score": mean, "answers": values or None, "samples": kept(said)}
            write_run(root / f"{name}{seed}", algorithm=name, seed=seed, noise=seed, **options)
    return compare(root, prompts="fixed").runs


def test_prompts_are_counted_and_told_by_difference(tmp_path):
    found = contest("grpo", "custom_dpo", write_two(tmp_path))
    assert (found.won, found.lost, found.tied) == (2, 1, 2)
    assert [(result.place, result.difference) for result in found.told] == [(0, 1), (1, 0), (3, 0), (2, -1)]
    first = found.told[0]
    assert (first.prompt, first.said_a.completion, first.said_b.completion) == ("1+1=", "a", "w")


def test_completions_of_the_last_evaluation_tell_every_prompt(tmp_path):
    for name, score in (("grpo", 1.0), ("custom_dpo", 0.0)):
        rows = [{"prompt": str(place), "completion": f"{name} {place}", "score": score} for place in range(9)]
        for seed in range(2):
            options = {"score": score, "answers": [score] * 9, "samples": kept("abcd"), "completions": rows}
            write_run(tmp_path / f"{name}{seed}", algorithm=name, seed=seed, noise=seed, **options)
    found = contest("grpo", "custom_dpo", compare(tmp_path, prompts="fixed").runs)
    assert [result.said_b.completion for result in found.told] == [f"custom_dpo {place}" for place in range(9)]
    assert found.told[8].said_a == Said("grpo 8", seed=0, step=100, score=1.0)


def test_runs_that_answered_different_prompts_are_not_held_against_each_other(tmp_path):
    for name, digest in (("grpo", "1111"), ("custom_dpo", "2222")):
        for seed in range(2):
            options = {"score": 0.5, "answers": [1.0, 0.0], "samples": kept("ab"), "digest": digest}
            write_run(tmp_path / f"{name}{seed}", algorithm=name, seed=seed, noise=seed, **options)
    assert contest("grpo", "custom_dpo", compare(tmp_path, prompts="fixed").runs) is None


def test_old_completions_of_pairs_are_not_told(tmp_path):
    for name in ("grpo", "custom_dpo"):
        for seed in range(2):
            rows = [{key: value for key, value in row.items() if key != "reward"} for row in kept("ab")]
            options = {"score": 0.5, "answers": [1.0, 0.0], "samples": rows}
            write_run(tmp_path / f"{name}{seed}", algorithm=name, seed=seed, noise=seed, **options)
    found = contest("grpo", "custom_dpo", compare(tmp_path, prompts="fixed").runs)
    assert (found.tied, found.told) == (2, ())


def test_where_less_is_better_the_sides_change(tmp_path):
    found = contest("grpo", "custom_dpo", write_two(tmp_path), lower_is_better=True)
    assert (found.won, found.lost) == (1, 2)
    assert [result.place for result in found.told] == [2, 1, 3, 0]


def test_without_the_answers_of_both_there_is_no_contest(tmp_path):
    runs = write_two(tmp_path, answers=([1, 0], []))
    assert contest("grpo", "custom_dpo", runs) is None


def test_without_completions_the_prompts_are_still_counted(tmp_path):
    found = contest("grpo", "custom_dpo", write_two(tmp_path, words=("abcd", "")))
    assert (found.won, found.told) == (2, ())
