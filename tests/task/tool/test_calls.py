import pytest

from rlx.task.tool.calls import FORMATS, Call, format_of, text_before_calls

ADD = Call("add", {"a": 1})
OBJECT = '{"name": "add", "arguments": {"a": 1}}'
LLAMA = '{"name": "add", "parameters": {"a": 1}}'


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", f"<tool_call>\n{OBJECT}\n</tool_call>"),
        ("hermes", f"I add.\n<tool_call>{OBJECT}"),
        ("hermes", f"<think>shall I <tool_call>x</tool_call>?</think>\n<tool_call>{OBJECT}</tool_call>"),
        ("hermes", f"<tool_call>[{OBJECT}]</tool_call>"),
        ("mistral", f"[TOOL_CALLS] [{OBJECT}]"),
        ("mistral", f"[{OBJECT}]"),
        ("llama3", LLAMA),
        ("llama3", f"<|python_tag|>{LLAMA}"),
        ("llama3", '{"name": "add", "arguments": "{\\"a\\": 1}"}'),
    ],
)
def test_a_call_is_read_in_the_format_of_its_family(form, text):
    assert FORMATS[form](text) == [ADD]


def test_several_calls_keep_their_order():
    text = '<tool_call>{"name": "a", "arguments": {}}</tool_call><tool_call>{"name": "b", "arguments": {}}</tool_call>'
    assert [call.name for call in FORMATS["hermes"](text)] == ["a", "b"]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("text", ["46", "", '{"answer": 46}', "[1, 2]", "[]", "{not json", '{"name": "Ann"}', "[" * 100_000])
def test_an_answer_is_no_call(form, text):
    assert FORMATS[form](text) == []


@pytest.mark.parametrize(
    ("form", "text"),
    [("hermes", "<tool_call>add(1)</tool_call>"), ("hermes", '<tool_call>{"name": "add"}</tool_call>'),
     ("hermes", "<tool_call>3</tool_call>"), ("hermes", "<tool_call>[]</tool_call>"), ("hermes", "<tool_call>" + "[" * 100_000),
     ("hermes", '<tool_call>{"name": "a", "arguments": {"n": ' + "9" * 5000 + "}}</tool_call>"),
     ("mistral", "[TOOL_CALLS] add"), ("llama3", "<|python_tag|>print(1)"), ("llama3", '<|python_tag|>{"name": "add"}')],
)  # fmt: skip
def test_a_call_that_is_written_wrong_is_one_with_an_error(form, text):
    (call,) = FORMATS[form](text)
    assert call.error


def test_a_format_is_known_by_how_a_call_is_written():
    assert format_of(f"\n<tool_call>\n{OBJECT}\n</tool_call>", ADD) == "hermes"
    assert format_of(f'[TOOL_CALLS] [{OBJECT[:-1]}, "id": "rlxprobe1"}}]', ADD) == "mistral"
    assert format_of(LLAMA, ADD) == "llama3"
    assert format_of("<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", ADD) is None
    assert format_of("", ADD) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"I add.\n<tool_call>{OBJECT}", "I add.\n"),
        (f"[1] says so. <tool_call>{OBJECT}</tool_call> and so on", "[1] says so. "),
        (f"<think><tool_call>x?</think>Yes.<tool_call>{OBJECT}", "<think><tool_call>x?</think>Yes."),
        (f"I add. [TOOL_CALLS] [{OBJECT}]", "I add. "),
        (f"<|python_tag|>{LLAMA}", ""),
        (f"[{OBJECT}]", ""),
        (LLAMA, ""),
    ],
)  # fmt: skip
def test_what_is_said_before_the_first_call(text, said):
    assert text_before_calls(text) == said
