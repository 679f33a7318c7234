from rlx.comparison.comparison import compare
from rlx.comparison.prompts import Said, contest
from tests.comparison.records import write_run

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
