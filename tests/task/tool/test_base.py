import functools
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.task.messages import with_line_breaks
from rlx.task.tool.base import Tool, misfit
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
     (lambda: "x", "no tool that a process can import"),
     (with_line_breaks, "no tool that a process can import")],
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
