import functools
from typing import Any

import pytest

from rlx.errors import ConfigError
from rlx.task.messages import with_line_breaks
from rlx.task.tool.base import Tool
from tests.task.tool.tools import add, search


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
