import pytest

from rlx.data.turns import is_prefilled, loses, with_arguments


def call(arguments):
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("arguments", "as_text", "right"),
    [
        ({"é": 1}, True, '{"é": 1}'),
        ('{"é": 1}', True, '{"é": 1}'),
        ('{"é": 1}', False, {"é": 1}),
        ({"é": 1}, False, {"é": 1}),
        ("no JSON", False, "no JSON"),
        ("[1]", False, "[1]"),
        ("[" * 100_000, False, "[" * 100_000),
        (None, True, None),
    ],
)
def test_arguments_take_the_form_that_is_asked_for(arguments, as_text, right):
    given = call(arguments)
    assert with_arguments(given, as_text=as_text) == call(right)
    assert given == call(arguments)


def test_what_is_no_call_of_a_function_stays():
    for given in ("text", {"name": "f"}, {"function": "f"}):
        assert with_arguments(given, as_text=True) is given


def test_an_answer_that_only_calls_a_tool_is_no_beginning_of_one():
    answer = {"role": "assistant", "content": "a"}
    assert is_prefilled([{"role": "user", "content": "q"}, answer])
    assert not is_prefilled([answer, {"role": "user", "content": "q"}])
    assert not is_prefilled([{**answer, "tool_calls": [call({})]}])
    assert not is_prefilled([])


def test_words_are_lost_where_more_than_white_space_differs():
    message = {"role": "assistant", "content": " a  b ", "reasoning_content": "why"}
    assert not loses(message, "<think>why</think>a b")
    assert loses(message, "a b")
    assert loses(message, "why a")
