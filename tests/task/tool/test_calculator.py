import pytest

from rlx.task.tool.calculator import calculator


@pytest.mark.parametrize(
    ("expression", "value"),
    [("12+34", "46"), ("(12 + 34) * 5", "230"), ("-2 ** 2", "-4"), ("7 // 2 + 7 % 4", "6"), ("1 / 4", "0.25"), ("6 / 3", "2"),
     ("0.1 + 0.2", "0.3"), ("2 ** 0.5 * 2 ** 0.5", "2"), ("10 ** 99", "1" + "0" * 99), ("1e20", "1e+20")],
)  # fmt: skip
def test_it_computes(expression, value):
    assert calculator(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "a+1", "9**9**9", "(9**99)**99", "9**99*9**99", "True+1", "1 if 1 else 2", "'a'*3", "1+", "1" * 600,
     "1j", "(-8)**0.5", "1e999", "1e999-1e999", "[1][0]", "(" * 400, "1;2", "", "x:=3", "1" * 101],
)  # fmt: skip
def test_it_runs_nothing_else(expression):
    with pytest.raises(ValueError):
        calculator(expression)


def test_a_division_by_zero_says_so():
    with pytest.raises(ZeroDivisionError):
        calculator("1 / (2 - 2)")
