import sys
from types import SimpleNamespace

import pytest

from rlx.errors import ConfigError, DataError
from rlx.task.base import Prompt
from rlx.task.reward.math import MathVerify


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(ConfigError, match=r"pip install 'rlx\[math\]'"):
        MathVerify(weight=1.0, timeout=5)


def test_expressions_are_compared_as_mathematics():
    pytest.importorskip("math_verify")
    reward = MathVerify(weight=1.0, timeout=5)
    for completion, answer in ((r"so it is $\frac{1}{2}$", "0.5"), ("1/2", "0.5"), ("$x+1$", "1+x"), (r"\boxed{12}", "$12$")):
        assert reward("q", completion, answer=answer) == 1.0
    for completion, answer in (("7", "8"), ("no idea", "3"), ("", "3")):
        assert reward("q", completion, answer=answer) == 0.0


def test_a_bare_answer_is_read_as_mathematics_and_a_marked_one_as_it_is(monkeypatch):
    read = []
    package = SimpleNamespace(
        parse=lambda text, parsing_timeout: read.append((text, parsing_timeout)) or text,
        verify=lambda right, said, timeout_seconds: False,
    )
    monkeypatch.setitem(sys.modules, "math_verify", package)
    reward = MathVerify(weight=1.0, timeout=7)
    assert reward("q", "3", answer=["1+x", "$2$"]) == 0.0
    assert read == [("3", 7), ("$1+x$", 7), ("$2$", 7)]


def right(answer, **settings):
    pytest.importorskip("math_verify")
    return MathVerify(weight=1.0, timeout=5, **settings)("q", answer, answer=answer)


@pytest.mark.parametrize(
    "answer", [r"\$15", "$15", "(1,2)", "[0,1)", "(C)", "Monday", "no solution", "True", "1+x", r"\frac{1}{2}", "$x$", "3 apples"]
)
def test_a_completion_that_is_the_answer_is_right_whatever_it_is(answer):
    assert right(answer) == 1.0
    reward = MathVerify(weight=1.0, timeout=5)
    assert reward("q", f"So it is \\boxed{{{answer}}}.", answer=answer) == 1.0
    assert reward("q", f" {answer.upper()}.", answer=answer) == 1.0
    assert reward("q", "something else", answer=answer) == 0.0
    assert reward("q", "15", answer=r"\$15") == 1.0


@pytest.mark.parametrize(
    ("answer", "said", "wrong"),
    [
        ("50%", r"\boxed{50\%}", "5%"),
        (r"\{1,2\}", "{1,2}", "{1,3}"),
        ("€20", "20", "€2"),
        ("C", r"\boxed{\textbf{(C)}}", "(D)"),
        ("(C)", "The answer is C.", "The answer is not C."),
        ("[0,1)", "The answer is [0, 1)", "The answer is [0,1]"),
        ("Monday", "So the answer is: Monday", "The answer is Monday or Tuesday"),
        ("101_2", "101_2", "101_3"),
        ("2e3", "2000", "16.3"),
        ("1e-05", r"\boxed{0.00001}", "1.7"),  # how Python writes the number 0.00001 of a data file
        ("0.001", r"\boxed{1e-3}", "1e-2"),
        ("(1,2)", "The point is (1, 2).", "The point is [1,2]."),
        ("(1,2)", "So, the points meet.\nThe point is: (1,2)", "The point is not (1,2)."),
        ("[0,1)", "The interval is [0,1).", "The interval isn't [0,1)."),
        ("(1,2)", "It is (1,2)", "The points are (1,2) and (3,4)."),
        ("(1,2)", "It is (1,2)", "Of x = 3 it is (1,2)"),
        ("2", "2", "The point is (1,2)."),
        (".", ".", "Whatever"),
        ("101_2", r"\boxed{101_{2}}", r"\boxed{101_{3}}"),
    ],
)
def test_an_answer_in_another_spelling_is_right_and_another_answer_is_wrong(answer, said, wrong):
    pytest.importorskip("math_verify")
    reward = MathVerify(weight=1.0, timeout=5)
    assert reward("q", said, answer=answer) == 1.0
    assert reward("q", wrong, answer=answer) == 0.0


def test_an_empty_answer_is_refused_and_an_unreadable_one_by_choice(monkeypatch):
    package = SimpleNamespace(parse=lambda text, parsing_timeout: [], verify=lambda right, said, timeout_seconds: True)
    monkeypatch.setitem(sys.modules, "math_verify", package)
    reward = MathVerify(weight=1.0, timeout=5)
    with pytest.raises(DataError, match="answer of the prompt 'q' is empty"):
        reward("q", "", answer=" ")
    with pytest.raises(DataError, match="is empty"):
        reward.require_answers([Prompt("q", {"answer": ""})])
    reward.require_answers([Prompt("q", {"answer": "no solution, they say"})])
    assert reward("q", "Tuesday", answer="Monday") == 0.0
    strict = MathVerify(weight=1.0, timeout=5, unparsed="refuse")
    with pytest.raises(DataError, match=r"nothing can be read from the answer 'Monday'.*unparsed=text"):
        strict.require_answers([Prompt("q", {"answer": "Monday"})])
    with pytest.raises(ConfigError, match="unparsed"):
        MathVerify(weight=1.0, timeout=5, unparsed="maybe")
