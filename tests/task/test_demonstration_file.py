import json
from dataclasses import replace

import pytest

import rlx
from rlx.algorithm.base import Need
from rlx.data.survey import survey
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import ConfigError, DataError
from rlx.experiment import require_match
from rlx.task.demonstration_file import split_conversation
from tests.data.test_conversation import FAMILIES, encoder_of
from tests.task.test_file import assistant, user, write

SYSTEM = {"role": "system", "content": "Add."}
HI = assistant("Hi!")
TALK = [user("1+1="), assistant("2"), user("1+2="), assistant("3")]


def task(tmp_path, *rows, **changes):
    rest = [{"prompt": f"{n}+{n}=", "completion": f"{2 * n}"} for n in range(90)]
    return rlx.load("task", "demonstration_file", path=str(write(tmp_path / "a.jsonl", [*rows, *rest])), **changes)


def first(tmp_path, row, **changes):
    made = task(tmp_path, **changes)
    pair = made._pair(row, "a.jsonl:1")
    assert (pair.label, len(pair.rejected)) == ((True, None), 0)
    return pair.prompt, pair.chosen, made.columns.notes()


def test_a_conversation_is_learned_from_its_first_answer_on(tmp_path):
    assert split_conversation((SYSTEM, *TALK)) == ((SYSTEM, TALK[0]), tuple(TALK[1:]))
    greeting = (assistant("Hi!"), *TALK)
    assert split_conversation(greeting) == (greeting[:2], greeting[2:])
    assert split_conversation((SYSTEM, assistant("Hi!"))) == ((SYSTEM, assistant("Hi!")), ())
    assert split_conversation(({"role": "tool", "content": "5"}, assistant("It is 5.")))[1] == (assistant("It is 5."),)


CONVERSATIONS = {
    "UltraChat": {"prompt": "1+1=", "prompt_id": "7", "messages": TALK},
    "OpenHermes": {
        "system_prompt": None,
        "conversations": [
            {"from": "human", "value": "1+1=", "weight": None},
            {"from": "gpt", "value": "2", "weight": 1},
            {"from": "human", "value": "1+2="},
            {"from": "gpt", "value": "3"},
        ],
    },
    "Capybara": {"conversation": [{"input": "1+1=", "output": "2"}, {"input": "1+2=", "output": "3"}], "source": "x"},
    "LIMA": {"conversations": ["1+1=", "2", "1+2=", "3"], "source": "x"},
    "OpenAssistant": {
        "text": "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n1+2=<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"
    },
    "ended": {
        "text": "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\n1+2=<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n</s>\n"
    },
    "Guanaco": {"text": "### Human: 1+1=### Assistant: 2### Human: 1+2=### Assistant: 3"},
    "null beside": {"messages": None, "conversations": TALK},
    "answer beside": {"messages": TALK, "problem": "1+1=", "solution": "2", "answer": "3"},
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations_of_well_known_sets(tmp_path, name):
    prompt, completion, _ = first(tmp_path, CONVERSATIONS[name])
    plain = [{key: message[key] for key in ("role", "content")} for message in (*prompt, *completion)]
    assert plain == TALK
    assert len(prompt) == 1


@pytest.mark.parametrize(
    ("row", "prompt", "completion", "said"),
    [
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n\n1 1", "2", "instruction, with input below it,"),
        ({"instruction": "Add.", "context": "1 1", "response": "2"}, "Add.\n\n1 1", "2", "instruction, with context below it,"),
        ({"instruction": "1+1=", "input": "", "output": "2", "text": "1+1=2"}, "1+1=", "2", "output as completion"),
        ({"question": "1+1=", "answer": "It is\n#### 2"}, "1+1=", "It is\n#### 2", "answer as completion, question as prompt"),
        ({"problem": "1+1=", "solution": "2", "level": "1"}, "1+1=", "2", "solution as completion, problem as prompt"),
        ({"prompt": None, "question": "1+1=", "completion": "2"}, "1+1=", "2", "question as prompt"),
        ({"messages": TALK[:1], "response": "2"}, (TALK[0],), (assistant("2"),), "response as completion, messages as prompt"),
        ({"prompt": "x", "completion": TALK}, (TALK[0],), tuple(TALK[1:]), ""),
        ({"prompt": "1+1=", "completion": TALK[1:]}, (TALK[0],), tuple(TALK[1:]), ""),
        ({"prompt": TALK[:1], "completion": TALK[1:]}, (TALK[0],), tuple(TALK[1:]), ""),
        ({"prompt": "1+1=", "completion": [HI, *TALK]}, (HI, TALK[0]), tuple(TALK[1:]), ""),
        ({"prompt": None, "completion": [HI, *TALK]}, (HI, TALK[0]), tuple(TALK[1:]), ""),
    ],
)
def test_prompts_with_a_completion(tmp_path, row, prompt, completion, said):
    found = first(tmp_path, row)
    assert found[:2] == (prompt, completion)
    assert said in " ".join(found[2])


def test_columns_of_other_names_are_chosen(tmp_path):
    row = {"messages": TALK, "dialog": TALK[2:], "reply": "5", "completion": "6", "prompt": "2+3="}
    assert first(tmp_path, row, prompt_key="dialog", completion_key="none")[:2] == ((TALK[2],), (TALK[3],))
    assert first(tmp_path, row, completion_key="reply")[:2] == ("2+3=", "5")
    assert first(tmp_path, row)[:2] == ("2+3=", "6")


@pytest.mark.parametrize("talk", [TALK, json.dumps(TALK), repr(TALK), "### Human: 1+1=### Assistant: 2"])
def test_the_column_of_the_prompt_may_hold_a_whole_conversation(tmp_path, talk):
    for row, changes in (({"talk": talk}, {"prompt_key": "talk"}), ({"prompt": talk}, {})):
        prompt, completion, notes = first(tmp_path, row, **changes)
        assert (prompt, completion[0], notes) == ((TALK[0],), TALK[1], [])


def test_a_conversation_that_is_not_taken_is_no_prompt_by_the_notes(tmp_path):
    for beside in ("c17", TALK[:1]):
        prompt, completion, notes = first(tmp_path, {"conversation": beside, "prompt": "1+1=", "response": "2"})
        assert (prompt, completion) == ("1+1=", "2")
        assert "conversation as prompt" not in notes[0]
        assert notes[1] == "columns that are not read: conversation"


BAD = [
    {"messages": None},
    {"messages": []},
    {"prompt": None, "completion": "2"},
    {"messages": [user("1+1=")]},
    {"messages": [SYSTEM, assistant("Hello.")]},
    {"messages": [user("1+1="), assistant(" ")]},
    {"messages": [*TALK, user("1+3="), assistant("")]},
    {"prompt": "1+1=", "completion": None},
]


def test_rows_without_an_answer_are_left_out_and_counted(tmp_path):
    found = task(tmp_path, *BAD, {"messages": [*TALK, user("Thanks.")]}, {"messages": [assistant("Hi!"), *TALK]})
    policy = rlx.load("policy", "tiny")
    sides = [TokenizedPairs.of(side, policy.text) for side in (found.pairs(), found.held_out_pairs())]
    assert sum(side.dropped.get("lacking", 0) for side in sides) == 3
    assert sum(side.dropped.get("empty", 0) for side in sides) == 5
    assert sum(map(len, sides)) == 92
    assert sum(side.remarks.get("trailing", 0) for side in sides) == 1
    assert "2 conversations begin with the assistant's words" in found.notes()[-1]  # one of them says nothing else
    assert "to learn from" in found.facts()["demonstrations"]


def test_the_prompt_goes_on_to_the_first_answer_that_is_learned():
    begun = {**TALK[1], "weight": 0}
    assert split_conversation((TALK[0], begun, *TALK[2:])) == ((TALK[0], begun, TALK[2]), (TALK[3],))
    assert split_conversation((TALK[0], begun, TALK[3])) == ((TALK[0],), (begun, TALK[3]))  # else it were a prefill
    assert split_conversation((TALK[0], begun)) == ((TALK[0], begun), ())


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}, {"masked": True}], ids=str)
def test_answers_that_say_so_are_not_learned_and_counted(tmp_path, mark):
    other = {name: not value for name, value in mark.items()}
    talk = [TALK[0], {**TALK[1], **other}, TALK[2], {**TALK[3], **mark}]
    sharegpt = [{"from": who, "value": said, **mark} for who, said in (("human", "1+5="), ("gpt", "6"))]
    rows = [{"messages": talk}, {"conversations": sharegpt}, {"messages": [*TALK, {**user("No"), **other}, TALK[3]]}]
    made = survey(task(tmp_path, *rows), rlx.load("policy", "tiny"), num_examples=0)
    assert {row["reason"]: row["count"] for row in made.remarks} == {"excluded": 1, "others_weighed": 1}
    assert {row["reason"]: row["count"] for row in made.dropped} == {"empty": 1}
    text = rlx.load("policy", "tiny").text
    learned = TokenizedPairs.of([task(tmp_path)._pair(rows[0], "a")], text).sequences.completions[0][0]
    assert text.tokenizer.decode(learned, skip_special_tokens=True) == "2"


def test_a_file_without_answers_is_refused(tmp_path):
    path = write(tmp_path / "b.jsonl", [{"messages": [{"role": "gpt", "content": "2"}]}] * 5)
    with pytest.raises(DataError, match=r"has 0 different prompts with an answer to learn, of 5 rows; one"):
        rlx.load("task", "demonstration_file", path=str(path)).pairs()
    path = write(tmp_path / "c.jsonl", [{"messages": [TALK[0], {**TALK[1], "weight": 0}]}] * 5)
    with pytest.raises(DataError, match=r"has 0 different .*; of 5 rows every answer has weight 0 or train false"):
        rlx.load("task", "demonstration_file", path=str(path)).pairs()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "1", "chosen": "2", "rejected": "3"}, "no key 'completion'.*of pairs .* task=preference_file"),
        ({"text": "Once upon a time"}, "no key 'completion'"),
    ],
)
def test_a_file_without_a_column_of_demonstrations_is_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        rlx.load("task", "demonstration_file", path=str(write(tmp_path / "a.jsonl", [row] * 3))).pairs()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"from": "who", "value": "2"}]}, "a message in 'messages' is from 'who'"),
        ({"text": "<|im_start|>user name=a\n1<|im_end|>\n<|im_start|>assistant\n2<|im_end|>"}, "'text' has words .*user name=a"),
        ({"text": "<|im_start|>user\n1<|im_end|>x<|im_start|>assistant\n2<|im_end|>"}, "words in no turn of their own, 'x'"),
        ({"text": "<|im_start|>user\n1\n<|im_start|>assistant\n2<|im_end|>"}, "words in no turn of their own, '1"),
        ({"messages": {"role": ["user", "assistant"], "content": ["1", "2"]}}, r"role of a message in 'messages' is \['user'"),
        ({"messages": 7}, "'messages' is neither text nor a list of messages"),
    ],
)
def test_what_is_no_demonstration_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        task(tmp_path, row).pairs()


@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_an_undesirable_completion_is_not_imitated(tmp_path, name):
    rows = [{"prompt": f"q{number}", "completion": "a", name: number != 3} for number in range(5)]
    with pytest.raises(DataError, match=rf"4: '{name}' is false, .* task=labelled_file"):
        task(tmp_path, *rows).pairs()
    numbered = [{**row, name: 0} for row in rows]  # of classes, say
    assert len(task(tmp_path, *numbered).pairs()) > 1


def test_demonstrations_given_as_pairs_name_their_task(tmp_path):
    path = write(tmp_path / "b.jsonl", [{"messages": TALK}])
    for name in ("preference_file", "labelled_file"):
        with pytest.raises(DataError, match="task=demonstration_file"):
            rlx.load("task", name, path=str(path)).pairs()


def test_an_algorithm_that_compares_is_refused_and_one_that_imitates_takes_pairs_too(tmp_path):
    made = task(tmp_path)
    with pytest.raises(ConfigError, match=r"algorithm Dpo needs pairs, and task .* has demonstrations.*take algorithm=sft"):
        require_match(rlx.load("algorithm", "dpo"), made)
    with pytest.raises(ConfigError, match=r"needs pairs and rewards, .* choose a task that offers both"):
        require_match(rlx.load("algorithm", "hybrid"), made)
    with pytest.raises(ConfigError, match=r"needs rewards, but .* choose a task that offers them"):
        require_match(rlx.load("algorithm", "grpo"), made)
    with pytest.raises(ConfigError, match=r"a hybrid that imitates .* has algorithm@algorithm.dpo=sft, on task=rewarded_demon"):
        require_match(rlx.load("algorithm", "hybrid"), made)
    sft = rlx.load("algorithm", "sft")
    mixed = replace(rlx.load("algorithm", "hybrid"), dpo=sft)
    for other in (made, rlx.load("task", "prompt_file", path="x")):
        with pytest.raises(ConfigError, match=r"needs demonstrations and rewards, but task .* offers only .*task=rewarded_dem"):
            require_match(mixed, other)
    assert sft.needs == {Need.DEMONSTRATIONS}
    require_match(sft, made)
    require_match(sft, rlx.load("task", "arithmetic"))
    with pytest.raises(
        ConfigError, match="needs demonstrations, and task x offers only rewards; task=demonstration_file reads them"
    ):
        require_match(sft, rlx.load("task", "prompt_file", path="x"))


def test_there_is_nothing_to_flip(tmp_path):
    with pytest.raises(ConfigError, match="label_noise"):
        task(tmp_path, label_noise=0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_answer_of_a_conversation_is_learned_as_it_would_be_generated(tmp_path, family):
    """Every learned stretch follows the prompt that sampling would have continued there, and ends where sampling ends."""
    text = encoder_of(family)
    found = task(
        tmp_path, *({"messages": [user(f"{n}+1="), assistant(str(n)), user("Sure?"), assistant("Yes")]} for n in range(9))
    )
    pairs = [pair for pair in (*found.pairs(), *found.held_out_pairs()) if isinstance(pair.prompt, tuple)]
    made = TokenizedPairs.of(pairs, text)
    if family == "deepseek_r1":  # no one sequence holds the prompts of both answers
        assert made.dropped == {"rewrites": 9}
        return
    assert len(made) == 9
    for row, (prompt, (ids, _)) in enumerate(zip(made.sequences.prompts, made.sequences.completions, strict=True)):
        learned = made.sequences.completion_mask[row, 0, : len(ids)].numpy()
        begins = [place for place in range(len(ids)) if learned[place] and not (place and learned[place - 1])]
        ends = [place for place in range(len(ids)) if learned[place] and not learned[place + 1 : place + 2].any()]
        asked = [pairs[row].prompt, (*pairs[row].prompt, *pairs[row].chosen[:2])]
        for begin, end, messages in zip(begins, ends, asked, strict=True):
            before = text.tokenizer.apply_chat_template(
                list(messages), tokenize=True, return_dict=False, add_generation_prompt=True
            )
            assert [*prompt, *ids[:begin]] == before
            assert ids[end] in text.end_ids
        said = [text.tokenizer.decode(ids[begin : end + 1]) for begin, end in zip(begins, ends, strict=True)]
        assert ["Yes" in said[1], "Sure" in "".join(said)] == [True, False]


def test_rlx_data_shows_demonstrations(tmp_path):
    rows = [{"messages": [user(f"{n}="), assistant("77"), user("again"), assistant("7")]} for n in range(20)]
    path = write(tmp_path / "talks.jsonl", [*rows, *BAD[:2]])
    found = survey(rlx.load("task", "demonstration_file", path=str(path)), rlx.load("policy", "tiny"), num_examples=2)
    assert (found.counts["read"], found.counts["kept"], found.counts["dropped"]) == (22, 20, 2)
    assert [row["reason"] for row in found.dropped] == ["lacking"]
    assert list(found.lengths) == ["prompt", "completion"]
    assert found.lengths["completion"]["mean"] == 5  # both answers with their ends
    assert found.chosen_longer is None
    (completion,) = found.examples[0]["completions"]
    assert sum(completion["learned"]) == 5 < len(completion["ids"])
