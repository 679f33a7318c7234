import json

import pytest

import rlx
from rlx.errors import DataError


def write(tmp_path, rows, name="prompts.jsonl"):
    file = tmp_path / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def sums(n=40):
    return [{"prompt": f"{i}+{i}=", "answer": str(2 * i), "level": i % 3} for i in range(n)]


def task(path, **changes):
    return rlx.load("task", "prompt_file", path=path, **changes)


def test_prompts_have_their_answer_and_the_other_columns(tmp_path):
    made = task(write(tmp_path, sums()))
    for prompt in (*made.prompts(), *made.held_out_prompts()):
        number = int(prompt.columns["answer"]) // 2
        assert prompt.text == f"{number}+{number}="
        assert prompt.columns == {"answer": str(2 * number), "level": number % 3}
        assert made.reward(prompt, str(2 * number)) == {"reward": 1.0, "exact_match": 1.0}


def test_the_split_is_by_content(tmp_path):
    rows = sums()
    made = task(write(tmp_path, rows))
    learn, held_out = ({prompt.text for prompt in side} for side in (made.prompts(), made.held_out_prompts()))
    assert not learn & held_out
    assert len(learn) + len(held_out) == 40
    assert 1 <= len(held_out) <= 12
    twice = task(write(tmp_path, [*reversed(rows), *({**row, "answer": "?"} for row in rows)], "twice.jsonl"))
    assert {prompt.text for prompt in twice.held_out_prompts()} == held_out
    assert len(twice.held_out_prompts()) == 2 * len(held_out)


def test_keys_may_have_other_names(tmp_path):
    rows = [{"question": f"q{i}", "completion": f"a{i}", "prompt": "unused", "n": i} for i in range(20)]
    made = task(write(tmp_path, rows), prompt_key="question", answer_key="completion")
    prompt = made.prompts()[0]
    assert prompt.columns == {"answer": f"a{prompt.text[1:]}", "n": int(prompt.text[1:])}  # no prompt, no completion


def test_messages_are_prompts_too(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": f"q{i}"}], "answer": "a"} for i in range(20)]
    made = task(write(tmp_path, rows))
    assert {prompt.text[0]["content"] for prompt in (*made.prompts(), *made.held_out_prompts())} == {f"q{i}" for i in range(20)}


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(sums()), tmp_path / "prompts.parquet")
    made = task(str(tmp_path / "prompts.parquet"))
    assert [prompt.text for prompt in made.prompts()] == [p.text for p in task(write(tmp_path, sums())).prompts()]


def test_a_file_without_answers_serves_rewards_that_need_none(tmp_path):
    made = task(write(tmp_path, [{"prompt": f"q{i}"} for i in range(20)]), answer_key=None)
    assert made.prompts()[0].columns == {}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; a prompt file has one row per prompt"),
        (sums(1), "has one prompt"),
        ([{"promt": "q", "answer": "a"}], "prompts.jsonl:1: .*did you mean task.prompt_key=promt"),
        ([*sums(3), {"prompt": 7, "answer": "a"}], "prompts.jsonl:4: 'prompt' is neither text nor"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        task(write(tmp_path, rows)).prompts()


def test_the_facts_and_the_hash_tell_the_file_apart(tmp_path):
    made = task(write(tmp_path, sums()))
    assert "40" not in made.facts()["prompts"].partition(", from ")[0]
    assert made.facts()["reward"] == "exact_match"
    assert made.content_hash() != task(write(tmp_path, sums(39), "other.jsonl")).content_hash()
