import functools
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.task.messages import with_line_breaks
from rlx.task.tool.base import FORMATS, Call, Tool, format_of, misfit, text_before_calls
from tests.task.tool.tools import add, choose, search


def untyped(query):
    return query


def several(*query: str) -> str:
    return str(query)


def of_another_type(query: complex) -> str:
    return str(query)


def documented(city: str, unit: str = "C", note: str = "") -> str:
    """The weather.

    Args:
        city: a town,
            or a village
        unit (str): of the temperature (choices: ["C", "F"])

    Returns:
        note: words
    """
    return city + unit


def test_a_function_becomes_a_schema():
    schema = Tool(function=search).schema["function"]
    assert (schema["name"], schema["description"]) == ("search", "Search the notes.\n\nTwice.")
    assert schema["parameters"] == {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "limit": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}, "nullable": True},
            "deep": {"type": "boolean"},
        },
        "required": ["query"],
    }


def test_what_is_said_of_the_arguments_is_in_it():
    assert Tool(function=add).schema["function"]["parameters"]["properties"]["a"] == {
        "type": "integer", "description": "the first number"
    }  # fmt: skip
    schema = Tool(function=documented).schema["function"]
    assert schema["description"] == "The weather."
    assert schema["parameters"]["properties"] == {
        "city": {"type": "string", "description": "a town, or a village"},
        "unit": {"type": "string", "description": "of the temperature", "enum": ["C", "F"]},
        "note": {"type": "string"},
    }


def test_what_the_config_sets_is_not_the_assistants_to_choose():
    tool = Tool(function=functools.partial(search, query="x", limit=3))
    assert sorted(tool.schema["function"]["parameters"]["properties"]) == ["deep", "tags"]
    assert tool.schema["function"]["parameters"]["required"] == []
    with pytest.raises(ConfigError, match="search has no argument most"):
        Tool(function=functools.partial(search, most=3))


@pytest.mark.parametrize(
    ("function", "said"),
    [(untyped, "no name of its own or no type"), (several, "no name of its own or no type"), (of_another_type, "no JSON schema"),
     (lambda: "x", "not a tool that a process can import"),
     (with_line_breaks, "not a tool that a process can import")],
)  # fmt: skip
def test_a_function_that_is_no_tool_is_refused(function: Any, said):
    with pytest.raises(ConfigError, match=said):
        Tool(function=function)


@pytest.mark.parametrize(
    ("name", "right", "wrong", "said"),
    [
        ("query", "a", float("nan"), "query is NaN, and its type is string"),
        ("limit", 5, True, "limit is true, and its type is integer"),
        ("limit", -1, 5.5, "limit is 5.5, and its type is integer"),
        ("limit", 0, None, "limit is null, and its type is integer"),
        ("tags", ["a"], ["a", 1], "tags[1] is 1, and its type is string"),
        ("tags", None, "a", 'tags is "a", and its type is array'),
        ("deep", True, 1, "deep is 1, and its type is boolean"),
        ("kind", "a", "c", 'kind is "c", and it is one of ["a", "b"]'),
        ("at", [1, 2], [1, float("inf")], "at[1] is Infinity, and its type is number"),
        ("at", [1, 0.5], [1], "at has 1 items, and it takes 2"),
        ("limits", {"a": 1}, {"a": "1"}, "limits['a'] is \"1\", and its type is integer"),
        ("other", ["a"], {}, "other is {}, and its type is integer or other is {}, and its type is array"),
        ("other", 1, ["a", 1], 'other is ["a", 1], and its type is integer or other[1] is 1, and its type is string'),
    ],
)
def test_a_value_fits_the_type_of_its_argument_or_the_assistant_is_told(name, right, wrong, said):
    schemas = {key: kind for tool in (search, choose) for key, kind in properties_of(tool).items()}
    assert misfit(right, schemas[name], name) == ""
    assert misfit(wrong, schemas[name], name) == said


def test_a_long_value_is_not_repeated_whole():
    assert misfit("x" * 500, {"type": "integer"}, "a") == f'a is "{"x" * 59}..., and its type is integer'


def properties_of(function):
    return Tool(function=function).schema["function"]["parameters"]["properties"]


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
