"""Demonstrations of a file with rewards beside: what is imitated, what is sampled, and what rewards get."""

from dataclasses import replace

import pytest

import rlx
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import ConfigError
from rlx.experiment import require_match
from rlx.record.files import read_metrics
from tests.task.test_file import assistant, user, write


def rows(n=40):
    return [{"messages": [user(f"{i}+1="), assistant(f"So {i + 1}")], "answer": str(i + 1), "level": i % 3} for i in range(n)]


def task(tmp_path, given, **changes):
    return rlx.load("task", "rewarded_demonstrations", path=str(write(tmp_path / "a.jsonl", given)), **changes)


def test_the_same_prompts_are_imitated_and_sampled_with_the_other_columns_for_rewards(tmp_path):
    made = task(tmp_path, rows())
    assert (made.offers, made.score) == ({"demonstrations", "rewards"}, "accuracy")
    for pairs, prompts in ((made.pairs(), made.prompts()), (made.held_out_pairs(), made.held_out_prompts())):
        assert [pair.prompt for pair in pairs] == [prompt.text for prompt in prompts]
    pair, prompt = made.pairs()[0], made.prompts()[0]
    right = prompt.columns["answer"]
    assert (pair.chosen[0]["content"], dict(prompt.columns)) == (f"So {right}", {"answer": right, "level": (int(right) - 1) % 3})
    assert made.reward(prompt, right)["reward"] == 1.0
    plain = rlx.load("task", "demonstration_file", path=made.path)
    assert [pair.chosen for pair in plain.pairs()] == [pair.chosen for pair in made.pairs()]
    sft = rlx.load("algorithm", "sft")
    require_match(replace(rlx.load("algorithm", "hybrid"), dpo=sft), made)
    with pytest.raises(ConfigError, match=r"take a file of pairs \(task=rewarded_preferences\); .* algorithm@algorithm.dpo=sft"):
        require_match(rlx.load("algorithm", "hybrid"), made)


def test_a_bare_answer_is_sampled_and_not_imitated_and_a_worked_one_is_both(tmp_path):
    worked = [{"question": f"{i}+2=", "answer": f"It is\n#### {i + 2}"} for i in range(20)]
    bare = [{"prompt": "7+7=", "answer": "14"}, {"messages": [user("8+8=")], "answer": "16"}]
    made = task(tmp_path, [*worked, *rows(20), *bare])
    text = rlx.load("policy", "tiny").text
    sides = [TokenizedPairs.of(side, text) for side in (made.pairs(), made.held_out_pairs())]
    assert sum(side.dropped.get("empty", 0) for side in sides) == 2
    prompts = {str(prompt.text): prompt.columns["answer"] for prompt in (*made.prompts(), *made.held_out_prompts())}
    assert len(prompts) == 42
    assert (prompts["7+7="], prompts["3+2="]) == ("14", "5")
    pair = made._pair(worked[3], "a.jsonl:4")
    assert (pair.prompt, pair.chosen) == ("3+2=", "It is\n#### 5")


def test_conversations_that_go_on_are_named(tmp_path):
    first = rows(1)[0]
    longer = {**first, "messages": [*first["messages"], user("And?"), assistant("No")]}
    assert "1 conversations go on after their first answer" in task(tmp_path, [longer, *rows()[1:]]).notes()[-1]
    assert "go on" not in " ".join(task(tmp_path, rows()).notes())


@pytest.mark.whole
def test_a_hybrid_imitates_and_is_rewarded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", rows())
    result = rlx.train(
        [
            *("algorithm=hybrid", "algorithm@algorithm.dpo=sft", "task=rewarded_demonstrations", "task.path=a.jsonl"),
            *("num_steps=2", "algorithm.grpo.prompts_per_step=2", "algorithm.grpo.group_size=2", "task.max_new_tokens=4"),
            *("evaluation.num_prompts=4", "logger=[]"),
        ]
    )
    assert {"eval/accuracy", "eval/log_likelihood", "eval/reward/exact_match"} <= set(result.performance_metrics)
    assert "eval/score_standard_error" not in result.performance_metrics  # which is that of the likelihood, not of the accuracy
    assert {"train/dpo/loss", "train/grpo/loss"} <= set(read_metrics(result.metadata["directory"])[-1])
