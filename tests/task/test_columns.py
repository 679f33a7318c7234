import itertools
import json
import re

import pytest

from rlx.errors import DataError
from rlx.task.columns import Columns, final_answer
from rlx.task.pair_file import LabelledFile, PreferenceFile
from rlx.task.prompt_file import PromptFile
from rlx.task.reward.text import ExactMatch
from tests.task.test_file import assistant, user, write

PAIRS = {
    "held_out": 0.1, "max_new_tokens": 8, "label_noise": 0.0, "name": "x", "prompt_key": "prompt", "chosen_key": "chosen",
    "rejected_key": "rejected", "chosen_score_key": None, "rejected_score_key": None,
}  # fmt: skip


def pairs(tmp_path, *rows, **changes):
    return PreferenceFile(path=str(write(tmp_path / "a.jsonl", rows)), **{**PAIRS, **changes})


def first(task, row):
    return task._pair(row, "a.jsonl:1")


def test_ultrafeedback(tmp_path):
    talk = [user("q"), assistant("good")], [user("q"), assistant("bad")]
    row = {"prompt": "q", "prompt_id": "7", "chosen": talk[0], "rejected": talk[1], "messages": talk[0]}
    row |= {"score_chosen": 8.0, "score_rejected": 2}
    task = pairs(tmp_path, row, {**row, "prompt": "r"})
    pair = first(task, row)
    assert (pair.prompt, pair.chosen, pair.rejected) == ((user("q"),), (assistant("good"),), (assistant("bad"),))
    assert pair.scores == (8.0, 2.0)
    task.columns.saw(row)
    assert task.columns.notes() == ["columns that are not read: prompt_id, messages"]


def test_anthropic_hh_has_the_prompt_inside(tmp_path):
    talk = "\n\nHuman: 0+1?\n\nAssistant: The sum is"
    pair = first(pairs(tmp_path, {}), {"chosen": f"{talk} 1", "rejected": f"{talk} 2"})
    assert (pair.prompt, pair.chosen) == ("\n\nHuman: 0+1?\n\nAssistant:", " The sum is 1")


def test_orca_pairs(tmp_path):
    task = pairs(tmp_path, {})
    pair = first(task, {"system": "Be brief.", "question": "q", "chosen": "good", "rejected": "bad"})
    assert pair.prompt == ({"role": "system", "content": "Be brief."}, user("q"))
    parts = first(task, {"system": [{"type": "text", "text": "Be brief."}], "question": "q", "chosen": "good", "rejected": "bad"})
    assert parts.prompt == pair.prompt
    assert pair.chosen == (assistant("good"),) or pair.chosen == "good"
    assert task.columns.notes() == ["columns recognised: question as prompt; task.prompt_key=... chooses another"]
    chosen = pairs(tmp_path, {}, prompt_key="instruction", system_key=None)
    assert first(chosen, {"question": "q", "instruction": "i", "system": "s", "chosen": "good", "rejected": "bad"}).prompt == "i"


def test_shp_says_by_a_label_which_is_better(tmp_path):
    row = {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 0, "score_A": 1, "score_B": 9}
    pair = first(pairs(tmp_path, {}), row)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "b", "a")
    assert first(pairs(tmp_path, {}), {**row, "labels": 1}).chosen == "a"


def labelled(tmp_path, **changes):
    keys = {"prompt_key": "prompt", "completion_key": "completion", "label_key": "label", **changes}
    shared = {name: PAIRS[name] for name in ("held_out", "max_new_tokens", "label_noise", "name")}
    return LabelledFile(path=str(tmp_path / "a.jsonl"), **shared, **keys)


def prompts(tmp_path, **changes):
    judged = {
        "rewards": {"r": ExactMatch(weight=1.0, ignore_case=False, pattern=None)},
        "on_reward_error": "stop",
        "failed_reward": 0.0,
        "full_reward": None,
        "reward_noise": 0.0,
    }
    keys = {"prompt_key": "prompt", "answer_key": "answer", "held_out": 0.1, "max_new_tokens": 8, "name": "x", **changes}
    return PromptFile(path=str(tmp_path / "a.jsonl"), **judged, **keys)


def test_labelled_conversations(tmp_path):
    for changes in ({}, {"prompt_key": "messages"}):
        pair = first(labelled(tmp_path, **changes), {"messages": [user("q"), assistant("a")], "label": True})
        assert (pair.prompt, pair.chosen, pair.label) == ((user("q"),), (assistant("a"),), (True, None))


def test_a_completion_of_several_turns_goes_on_after_its_prompt(tmp_path):
    talk = [assistant("Which?"), user("0+1"), assistant("1")]
    row = {"completion": talk, "label": True, "chosen": talk, "rejected": [*talk[:2], assistant("2")]}
    for made in (labelled(tmp_path), pairs(tmp_path, {})):
        for prompt in ("q", [user("q")]):
            pair = first(made, {**row, "prompt": prompt})
            assert (pair.prompt, pair.chosen) == ((user("q"),), tuple(talk))
        assert first(made, {**row, "prompt": "0+1"}).prompt == tuple(talk[:2])  # asked after a greeting


SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]


def test_conversations_of_sharegpt(tmp_path):
    task = labelled(tmp_path)
    pair = first(task, {"conversations": SHAREGPT, "kto_tag": False, "prompt": "q"})  # as UltraChat repeats the first question
    assert (pair.prompt, pair.rejected, pair.label) == ((user("q"),), (assistant("a"),), (None, False))
    assert "columns recognised: conversations as prompt, kto_tag as label" in task.columns.notes()[0]
    asked = prompts(tmp_path, answer_key=None)
    assert asked._prompt({"conversations": SHAREGPT}, "a.jsonl:1").text == (user("q"),)
    assert asked.columns.notes()[0].startswith("columns recognised: conversations as prompt")
    sides = {"chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}}
    for given in (SHAREGPT[:1], SHAREGPT):
        task = pairs(tmp_path, {})
        pair = first(task, {"conversations": given, **sides})
        assert (pair.prompt, pair.chosen, pair.rejected) == ((user("q"),), (assistant("good"),), (assistant("bad"),))
        assert task.columns.notes() == ["columns recognised: conversations as prompt; task.prompt_key=... chooses another"]
    assert first(pairs(tmp_path, {}, prompt_key="talk"), {"talk": SHAREGPT[:1], **sides}).prompt == (user("q"),)
    for speaker in ("bing", ["human"]):
        with pytest.raises(DataError, match=rf"a\.jsonl:1: a message in 'conversations' is from {re.escape(repr(speaker))}"):
            first(pairs(tmp_path, {}), {"conversations": [{"from": speaker, "value": "q"}], **sides})


def test_the_name_of_a_conversation_is_no_prompt(tmp_path):
    row = {"conversation": "c17", "chosen": "q good", "rejected": "q bad"}
    assert first(pairs(tmp_path, {}), row).prompt == "q "
    assert first(pairs(tmp_path, {}, prompt_key="conversation"), row).prompt == "c17"


def test_the_input_of_alpaca_stands_below_its_instruction(tmp_path):
    row = {"instruction": "Add.", "input": "1 and 2", "output": "3", "label": True, "answer": "3", "chosen": "3", "rejected": "4"}
    for task, read in ((labelled(tmp_path), first), (pairs(tmp_path, {}), first)):
        assert read(task, row).prompt == "Add.\n\n1 and 2"
        assert read(task, {**row, "input": ""}).prompt == read(task, {**row, "input": None}).prompt == "Add."
        assert "instruction, with input below it, as prompt" in task.columns.notes()[0]
    assert prompts(tmp_path)._prompt(row, "a.jsonl:1").text == "Add.\n\n1 and 2"
    assert first(pairs(tmp_path, {}, prompt_key="instruction"), row).prompt == "Add."
    assert first(task, {"prompt": "Hi.", "input": "1", "chosen": "a", "rejected": "b"}).prompt == "Hi."
    assert first(task, {**row, "input": ["1"]}).prompt == "Add."
    assert first(task, {**row, "input": 0}).prompt == "Add.\n\n0"


@pytest.mark.parametrize("names", [("rating_chosen", "rating_rejected"), ("chosen-rating", "rejected-rating")])
def test_ratings_are_scores(tmp_path, names):
    talk = [user("q"), assistant("good")], [user("q"), assistant("bad")]
    row = {"prompt": "q", "chosen": talk[0], "rejected": talk[1], **dict(zip(names, (5, 2.5), strict=True))}
    assert first(pairs(tmp_path, {}), row).scores == (5.0, 2.5)
    for other in ("good", None, float("nan"), [5]):
        task = pairs(tmp_path, {})
        assert first(task, {**row, names[0]: other}).scores is None
        assert not task.columns.read & {*names}


def test_sets_without_pairs_labels_or_answers_say_what_to_do(tmp_path):
    nectar = {"prompt": "q", "answers": [{"answer": "a", "rank": 1.0}], "num_responses": 7}
    with pytest.raises(DataError, match=r"no key 'chosen' here.*task.chosen_key and task.rejected_key, or write .* out of ranks"):
        first(pairs(tmp_path, {}), nectar)
    with pytest.raises(DataError, match=r"no key 'label' here.*which completions are desirable; demonstrations alone have none"):
        first(labelled(tmp_path), {"prompt": "q", "response": "a", "helpfulness": 3})  # HelpSteer
    with pytest.raises(DataError, match=r"no key 'answer' here.*task.answer_key to the right one, or to null"):
        prompts(tmp_path)._prompt({"conversations": SHAREGPT}, "a.jsonl:1")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        ("48/2 = 24\n#### 1,072", "1,072"),
        ("so it is $\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("\\boxed{3}", "\\boxed{3}"),
        ("plain", "plain"),
        (7, 7),
        ("\\boxed{never closed, $x", "\\boxed{never closed, $x"),
    ],
)
def test_the_answer_of_a_worked_solution(solution, answer):
    assert final_answer(solution) == answer


def test_questions_with_answers(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"work #### {i}"} for i in range(9)]
    keys = {"prompt_key": "prompt", "answer_key": "answer"}
    judged = {"rewards": {"r": lambda prompt, completion, answer: float(completion == answer)}, "full_reward": 1.0}
    failing = {"on_reward_error": "stop", "failed_reward": 0.0}
    shared = {"path": str(write(tmp_path / "a.jsonl", rows)), "name": "x", "max_new_tokens": 8, "held_out": 0.2}
    task = PromptFile(**shared, **keys, **judged, **failing, system="Be brief.")
    prompt = task._prompt(rows[3], "place")
    assert prompt.columns["answer"] == "3"
    assert prompt.text[0] == {"role": "system", "content": "Be brief."}
    assert task.notes() == ["columns recognised: question as prompt; task.prompt_key=... chooses another"]


def test_the_same_rows_mean_the_same_in_json_and_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    from rlx.task.table import find_file, read_rows

    def row(city, **unit):
        call = [{"type": "function", "function": {"name": "weather", "arguments": {"city": city, **unit}}}]
        schema = [{"type": "function", "function": {"name": "weather"}}]
        sides = {
            side: [{"role": "assistant", "content": text, "tool_calls": call}]
            for side, text in (("chosen", "a"), ("rejected", "b"))
        }
        return {"prompt": [user("q")], "tools": schema, **sides}

    rows = [row("Rome"), row("Lima", unit="C")]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert "unit" in str(parquet.read_table(tmp_path / "a.parquet").to_pylist()[0])  # Parquet fills it in
    task = pairs(tmp_path, *json.loads(json.dumps(rows)))
    both = []
    for name in ("a.jsonl", "a.parquet"):
        read = [task._pair(r, place) for place, r in read_rows(find_file(str(tmp_path / name), key="k"))]
        both.append([(pair.prompt, pair.chosen, pair.tools) for pair in read])
    assert both[0] == both[1]


def test_a_name_that_was_given_is_not_replaced():
    columns = Columns({"prompt": "text"})
    assert columns.name({"question": "q"}, "prompt") is None
    assert columns.name({"text": "q"}, "prompt") == "text"


def test_turns_of_capybara_and_lima_are_conversations_in_every_file(tmp_path):
    turns = [{"input": "1+1=", "output": "2"}, {"input": "1+2=", "output": "3"}]
    talk = (user("1+1="), assistant("2"), user("1+2="))
    for row in ({"conversation": turns}, {"conversations": ["1+1=", "2", "1+2=", "3"]}):
        assert prompts(tmp_path, answer_key=None)._prompt(row, "a.jsonl:1").text == talk
        pair = labelled(tmp_path)._pair({**row, "label": True, "solution": "x"}, "a.jsonl:1")
        assert (pair.prompt, pair.chosen) == (talk, (assistant("3"),))
    sides = {"chosen": [*talk, assistant("3")], "rejected": [*talk, assistant("4")]}
    pair = first(pairs(tmp_path, {}), {"conversation": turns, **sides})
    assert (pair.prompt, pair.chosen, pair.rejected) == (talk, (assistant("3"),), (assistant("4"),))


def test_a_null_column_hides_no_other_one(tmp_path):
    row = {"messages": None, "conversations": [user("q"), assistant("a")]}
    assert prompts(tmp_path, answer_key=None)._prompt(row, "a.jsonl:1").text == (user("q"),)
    assert labelled(tmp_path)._pair({**row, "label": True}, "a.jsonl:1").chosen == (assistant("a"),)
    null = {"prompt": None, "question": "q", "chosen": None, "chosen_response": "good", "rejected": "bad"}
    pair = first(pairs(tmp_path, {}), null)
    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "good", "bad")
    with pytest.raises(DataError, match="'chosen' is null"):
        first(pairs(tmp_path, {}), {"prompt": "q", "chosen": None, "rejected": "bad"})


PURPOSES = ("prompt", "chosen", "rejected", "completion", "label", "system", "tools", "answer", "chosen_score", "rejected_score")


def test_a_column_has_one_purpose():
    """A system_key that names the chosen side would put the answer into the prompt."""
    for one, other in itertools.permutations(PURPOSES, 2):
        columns = Columns({one: one, other: one})
        row = {one: "x", "rest": "y"}
        if {one, other} in ({"answer", "chosen"}, {"answer", "completion"}):  # a reward asks for what is learned
            assert columns.name(row, one) == columns.name(row, other) == one
            continue
        with pytest.raises(DataError, match=rf"'{one}' is read as .*set task\.\w+_key and task\.\w+_key to different columns"):
            columns.name(row, other)
    recognised = Columns({"prompt": "prompt", "system": "question"})
    with pytest.raises(DataError, match="'question' is read as system and as prompt"):
        recognised.name({"question": "?"}, "prompt")
