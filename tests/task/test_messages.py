import json

import numpy as np
import pytest

from rlx.errors import DataError
from rlx.task.messages import as_conversation, as_system, as_text, as_tools, with_line_breaks, with_system

TOOL = {"type": "function", "function": {"name": "weather", "strict": None}}


def read(value):
    return as_text(value, place="a.jsonl:1", key="prompt")


def test_parts_of_text_are_their_text():
    parts = [{"type": "text", "text": "0+", "image": None}, {"type": "text", "text": "1?"}]
    assert read([{"role": "user", "content": parts}]) == ({"role": "user", "content": "0+1?"},)


@pytest.mark.parametrize("kind", ["image", "image_url", "audio"])
def test_other_parts_are_refused_by_name(kind):
    with pytest.raises(DataError, match=rf"a\.jsonl:1: a message in 'prompt' has a part of the type '{kind}'"):
        read([{"role": "user", "content": [{"type": kind, kind: "x"}, {"type": "text", "text": "?"}]}])


def test_what_is_null_is_absent_at_any_depth():
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "unit": None}}}
    message = {"role": "assistant", "content": None, "tool_calls": [call], "name": None}
    plain = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
    assert read([message]) == ({"role": "assistant", "content": "", "tool_calls": [plain]},)
    assert read([{"role": "assistant", "tool_calls": [plain]}]) == read([message])
    assert read([{"role": "user", "content": "?", "tool_calls": []}]) == ({"role": "user", "content": "?"},)


def test_conversations_of_sharegpt_have_the_usual_names():
    assert read([{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]) == (
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "!"},
    )


def test_calls_and_results_of_sharegpt_are_those_of_tools():
    call = {"name": "add", "arguments": {"a": 1}}
    given = [{"from": "system", "value": "s"}, {"from": "human", "value": "?"}]
    given += [{"from": "function_call", "value": said} for said in (json.dumps(call), json.dumps([call, call]))]
    given += [{"from": "observation", "value": "2"}, {"from": "tool", "value": "3"}]
    made = read(given)
    assert [message["role"] for message in made] == ["system", "user", "assistant", "assistant", "tool", "tool"]
    assert [message.get("tool_calls") for message in made[2:4]] == [[{"type": "function", "function": call}] * n for n in (1, 2)]
    assert made[4:] == ({"role": "tool", "content": "2"}, {"role": "tool", "content": "3"})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {"from": "alice", "value": "?"},
            r"a\.jsonl:1: a message in 'prompt' is from 'alice', and rlx knows function_call, human",
        ),
        ({"from": "function_call", "value": "add 1"}, r"a\.jsonl:1: a function_call in 'prompt' is 'add 1'; it is JSON such as"),
        ({"from": "function_call", "value": '{"a": 1}'}, r"a\.jsonl:1: a function_call in 'prompt' is"),
    ],
)
def test_speakers_and_calls_that_nobody_knows_are_refused(message, said):
    with pytest.raises(DataError, match=said):
        read([{"from": "human", "value": "?"}, message])


@pytest.mark.parametrize("value", [None, 3, [], [{"role": "user"}], [{"content": "x"}], ["x"], [{"role": "user", "content": 3}]])
def test_what_is_neither_text_nor_messages_is_refused(value):
    with pytest.raises(DataError, match=r"a\.jsonl:1"):
        read(value)


def test_a_call_in_the_older_form_is_a_call():
    call = {"name": "weather", "arguments": '{"city": "Rome"}'}
    for content in ({"content": None}, {"content": "Let me look."}, {}):
        message = {"role": "assistant", "function_call": call, **content}
        (found,) = as_text([message], place="a:1", key="chosen")
        assert found["tool_calls"] == [{"type": "function", "function": call}]
        assert "function_call" not in found


def test_tools_are_a_list_or_its_json():
    plain = ({"type": "function", "function": {"name": "weather"}},)
    assert as_tools([TOOL], place="p", key="tools") == plain
    assert as_tools('[{"type": "function", "function": {"name": "weather"}}]', place="p", key="tools") == plain
    assert as_tools(None, place="p", key="tools") == as_tools("", place="p", key="tools") == ()
    for wrong in ("{not json", "[" * 100_000, ["weather"]):
        with pytest.raises(DataError, match="p: 'tools'"):
            as_tools(wrong, place="p", key="tools")


def test_a_system_message_comes_first_where_there_is_none():
    user, system = {"role": "user", "content": "?"}, {"role": "system", "content": "Be brief."}
    assert with_system("?", "Be brief.") == with_system((user,), "Be brief.") == (system, user)
    assert with_system((system, user), "Be long.") == (system, user)
    assert with_system("?", None) == "?"


@pytest.mark.parametrize("part", [{"type": "text", "content": "?"}, {"content": "?"}, {"type": "text", "text": 3}, {}])
def test_words_under_another_name_than_text_are_refused_and_not_lost(part):
    with pytest.raises(DataError, match="a text part whose 'text' is missing or not text, beside"):
        read([{"role": "user", "content": [part]}])


def test_a_message_without_a_role_is_refused():
    with pytest.raises(DataError, match="the role of a message in 'prompt' is None"):
        read([{"role": None, "content": "?"}])
    with pytest.raises(DataError, match=r"the role of a message in .prompt. is \[1\]"):
        read([{"role": [1], "content": "?"}])


def test_a_line_break_may_be_written_as_backslash_n():
    assert with_line_breaks(r"one\ntwo\n") == "one\ntwo\n"
    assert with_line_breaks(r"$\nabla f \neq 0$") == r"$\nabla f \neq 0$"
    assert with_system("?", r"a\nb")[0]["content"] == "a\nb"


# Answers in JSON that somebody asked for.
ASKED_FOR = ('[{"from": "Paris", "to": "Rome"}]', '[{"role": "admin", "name": "Bob"}]', '[{"role": "a", "content": "b"}, 1]')


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ([{"role": "human", "content": "?"}, {"role": "gpt", "content": "!"}], [("user", "?"), ("assistant", "!")]),
        ([{"role": "User", "content": "?"}, {"role": "MODEL", "content": "!"}], [("user", "?"), ("assistant", "!")]),
        ([{"from": "Human", "value": "?"}, {"from": "GPT", "value": None}], [("user", "?"), ("assistant", "")]),
        ([{"role": "assistant", "content": None, "refusal": "no"}], [("assistant", "")]),
        ([{"role": "critic", "content": "?"}], [("critic", "?")]),
        ([{"role": " user ", "content": "?"}, {"role": "AI", "content": "!"}], [("user", "?"), ("assistant", "!")]),
        ([{"role": "function", "content": [{"type": "text", "text": None}]}], [("tool", "")]),
    ],
)
def test_speakers_have_one_name_each_and_null_says_nothing(given, made):
    assert [(message["role"], message["content"]) for message in read(given)] == made


def test_calls_may_be_spelled_as_json():
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}] * 2
    assert read([{"role": "assistant", "content": "", "tool_calls": json.dumps(calls)}])[0]["tool_calls"] == calls
    older = {"role": "assistant", "content": None, "function_call": json.dumps(calls[0]["function"])}
    assert read([older])[0]["tool_calls"] == calls[:1]
    with pytest.raises(DataError, match="tool_calls of a message in 'prompt' is text, but not JSON"):
        read([{"role": "assistant", "content": "", "tool_calls": "add(1)"}])


TURNS = ["a's", 'b "c"\n{', "d} {\u2028"]


@pytest.mark.parametrize(
    "write", [json.dumps, repr, lambda value: str(np.array(value, dtype=object))], ids=["json", "python", "numpy"]
)
def test_lists_in_a_table_of_text_are_what_they_spell(write):
    messages = tuple({"role": role, "content": said} for role, said in zip(("user", "assistant", "user"), TURNS, strict=True))
    assert read(write(list(messages))) == messages
    assert as_conversation(write(TURNS), place="a.csv:2", key="conversations") == messages
    assert read(write(TURNS)) == write(TURNS)  # elsewhere a list of texts is what somebody asked for
    if write is not json.dumps:
        assert read(write([{"from": "gpt", "value": "1"}])[1:-1]) == ({"role": "assistant", "content": "1"},)


def test_a_list_of_messages_that_cannot_be_read_is_refused():
    with pytest.raises(DataError, match=r"a\.jsonl:1: 'prompt' is an empty list"):
        read([])
    for text in ("[{'role': 'user', 'content': nan}]", '[{"role": "user", "content": "a" "b}]'):
        with pytest.raises(
            DataError, match=r"a\.jsonl:1: 'prompt' begins and ends as messages that are spelled as text, and is nei"
        ):
            read(text)
    assert read('{"role": "user", "content": "x", "id": 1}') == '{"role": "user", "content": "x", "id": 1}'


def test_a_text_that_spells_messages_is_those_messages():
    """So a CSV file holds conversations: datasets writes lists into it as Python does, others as JSON."""
    messages = [{"role": "user", "content": "a 'b'\n"}, {"role": "assistant", "content": None, "tool_calls": [TOOL]}]
    assert read(json.dumps(messages)) == read(repr(messages)) == read(messages)
    shared = [{"from": "human", "value": "?"}]
    assert read(f" {json.dumps(shared, indent=1)}\n") == read(shared)
    for text in (
        '[{"content": "x"}]',
        '[{"role": "user"',
        '[{"name": "f", "role": 1}]',
        "[{'role': exit()}]",
        "[]",
        '["role"]',
        *ASKED_FOR,
    ):
        assert read(text) == text


def test_a_system_message_may_be_given_in_any_form_of_text():
    def system(value):
        return as_system(value, place="a.jsonl:1", key="system")

    message = {"role": "system", "content": "Be brief."}
    for value in ("Be brief.", [{"type": "text", "text": "Be brief."}], message, [message], json.dumps([message])):
        assert system(value) == "Be brief."
    assert [system(value) for value in (None, "", [])] == [None] * 3
    assert system([message, message]) == "Be brief.\n\nBe brief."
    with pytest.raises(DataError, match=r"a\.jsonl:1: 'system' holds messages of others than the system"):
        system([message, {"role": "user", "content": "?"}])
    for value in (3, {"a": 1}, [{"type": "image"}]):
        with pytest.raises(DataError, match=r"a\.jsonl:1: "):
            system(value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"weight": 0.5}, "'weight' of a message in 'prompt' is 0.5; an answer is learned"),
        ({"train": "no"}, "'train' of a message in 'prompt' is 'no'"),
        ({"train": True, "weight": 0}, "a message in 'prompt' has weight and train that contradict each other"),
        ({"train_detail": [{"begin_offset": 0}]}, "has train_detail, and rlx learns whole answers"),
    ],
)
def test_weights_that_are_neither_learned_nor_not_are_refused(fields, said):
    with pytest.raises(DataError, match=said):
        read([{"role": "assistant", "content": "!", **fields}])
