"""Pairs of a file with rewards beside: what is sampled, what rewards get, and a hybrid on them."""

import json

import pytest

import rlx
from rlx.errors import DataError, RlxError
from rlx.record.files import read_metrics


def write(tmp_path, rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def sums(n=40):
    return [
        {"prompt": f"{i}+{i}=", "chosen": str(2 * i), "rejected": str(2 * i + 1), "answer": str(2 * i), "level": i % 3}
        for i in range(n)
    ]


def task(path, **changes):
    return rlx.load("task", "rewarded_preferences", path=path, **changes)


def test_pairs_and_prompts_are_the_same_rows_on_the_same_side_of_the_split(tmp_path):
    made = task(write(tmp_path, sums()))
    assert [pair.prompt for pair in made.pairs()] == [prompt.text for prompt in made.prompts()]
    assert [pair.prompt for pair in made.held_out_pairs()] == [prompt.text for prompt in made.held_out_prompts()]
    alone = rlx.load("task", "preference_file", path=made.path)
    assert [pair.prompt for pair in alone.pairs()] == [pair.prompt for pair in made.pairs()]
    prompts = rlx.load("task", "prompt_file", path=made.path)
    assert [prompt.text for prompt in prompts.held_out_prompts()] == [prompt.text for prompt in made.held_out_prompts()]


def test_rewards_get_the_answer_and_the_columns_that_are_no_part_of_a_pair(tmp_path):
    rows = [{**row, "score_chosen": 2.0, "score_rejected": 1.0, "system": "Add."} for row in sums()]
    made = task(write(tmp_path, rows))
    prompt = made.prompts()[0]
    assert dict(prompt.columns) == {"answer": made.pairs()[0].chosen, "level": prompt.columns["level"]}
    assert made.pairs()[0].scores == (2.0, 1.0)
    assert made.reward(prompt, prompt.columns["answer"]) == {"reward": 1.0, "exact_match": 1.0}
    assert prompt.text == made.pairs()[0].prompt
    assert prompt.text[0] == {"role": "system", "content": "Add."}


def test_the_score_is_that_of_the_rewards(tmp_path):
    made = task(write(tmp_path, sums()))
    assert made.score == "accuracy"
    assert made.offers == {"pairs", "rewards"}
    assert made.facts()["prompts"] == f"{len(made.prompts())} to sample after, {len(made.held_out_prompts())} held out"


def test_a_prompt_of_several_pairs_is_sampled_once_with_what_its_rows_agree_in(tmp_path):
    rows = [{**row, "rejected": row["rejected"] + tail, "model": tail} for row in sums() for tail in ("", "0")]
    made = task(write(tmp_path, rows))
    assert len(made.pairs()) == 2 * len(made.prompts())
    assert all(set(prompt.columns) == {"answer", "level"} for prompt in made.prompts())
    assert "columns that no reward gets, for rows with the same prompt differ in them: model" in made.notes()


def test_answers_that_differ_are_refused(tmp_path):
    first, second = sums(2)
    with pytest.raises(DataError, match=r"jsonl:3: the answer is '7', but '0' in .*jsonl:1, which has the same prompt; fix one"):
        task(write(tmp_path, [first, second, {**first, "answer": "7"}])).pairs()


def test_a_file_without_answers_has_rewards_that_need_none(tmp_path):
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in sums()]
    path = write(tmp_path, rows)
    penalty = {"_target_": "rlx.task.reward.text.LengthPenalty", "weight": 1.0, "max_characters": 9, "cache_characters": 3}
    penalised = task(path, rewards={"short": penalty})
    assert all(not prompt.columns for prompt in penalised.prompts())
    made = task(path)
    with pytest.raises(RlxError, match="answer"):  # said by the evaluation before the first step
        made.reward(made.prompts()[0], "1")


@pytest.mark.whole
def test_a_hybrid_trains_on_pairs_and_rewards_of_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = rlx.train(
        [
            *("algorithm=hybrid", "task=rewarded_preferences", f"task.path={write(tmp_path, sums(60))}", "task.max_new_tokens=4"),
            *(
                "num_steps=2",
                "algorithm.dpo.pairs_per_step=8",
                "algorithm.grpo.prompts_per_step=2",
                "algorithm.grpo.group_size=4",
            ),
            *("evaluation.num_prompts=4", "evaluation.num_pairs=4", "logger=[]"),
        ]
    )
    assert {"eval/accuracy", "eval/pair_accuracy", "eval/reward/exact_match"} <= set(result.performance_metrics)
    assert {"train/dpo/loss", "train/grpo/loss"} <= set(read_metrics(result.metadata["directory"])[-1])
