from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlx.errors import ConfigError, DataError
from rlx.task.reward.text import ExactMatch, LengthPenalty, Numeric, RegexFormat, last_number


def exact(completion, answer, *, ignore_case=False, pattern=None):
    return ExactMatch(weight=1.0, ignore_case=ignore_case, pattern=pattern)("q", completion, answer=answer)


def test_exact_match():
    assert exact(" 46\n", "46") == exact("46", 46) == 1.0
    assert exact("460", "46") == exact("", "46") == exact("46 47", "46") == 0.0
    assert exact("Paris", "paris") == 0.0
    assert exact("Paris", "paris", ignore_case=True) == 1.0
    assert exact("b", ["a", "b"]) == 1.0


def test_a_pattern_finds_what_is_compared():
    boxed = r"<answer>(.*?)</answer>"
    assert exact("<answer>1</answer> no, <answer> 46 </answer>.", "46", pattern=boxed) == 1.0
    assert exact("46", "46", pattern=boxed) == 0.0
    assert exact("it is 46", "46", pattern=r"\d+") == 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("the sum is 46.", 46),
        ("-7", -7),
        ("= -7", -7),
        ("10-7", 7),
        ("x-7", 7),
        ("\N{MINUS SIGN}7", -7),
        ("1,234,567.5 apples", Fraction(2469135, 2)),
        ("1,2345", 2345),
        ("3/4", Fraction(3, 4)),
        ("-1/2", Fraction(-1, 2)),
        ("2e-3", Fraction(1, 500)),
        (".5", Fraction(1, 2)),
        ("5 of 6", 6),
        ("3/0", None),
        ("1e999", None),
        ("none", None),
        ("", None),
    ],
)
def test_the_last_number(text, number):
    assert last_number(text) == number


@given(
    st.integers() | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12),
    st.text(alphabet="abc .:", max_size=5),
)
def test_a_number_is_read_as_python_writes_it(number, words):
    assert last_number(f"{words} {number}") == Fraction(str(number))


def numeric(completion, answer, tolerance=1e-6):
    return Numeric(weight=1.0, tolerance=tolerance)("q", completion, answer=answer)


def test_numeric():
    assert numeric("so it is 46", "#### 46") == numeric("46.0", 46) == numeric("1/2", "0.5") == 1.0
    assert numeric("47", "46") == numeric("", "46") == numeric("forty-six", "46") == 0.0
    assert numeric("1000001", "1000000", 1e-5) == 1.0  # relative where the answer is large
    assert numeric("0.00002", "0.00001", 1e-6) == 0.0  # and absolute where it is small
    assert numeric("0.1000001", "0.1", 1e-6) == 1.0


def test_an_answer_without_a_number_is_an_error_of_the_data():
    with pytest.raises(DataError, match="'Paris' of the prompt 'q' holds no number"):
        numeric("46", "Paris")


@pytest.mark.parametrize("reward", [ExactMatch(weight=1.0, ignore_case=False, pattern=None), Numeric(weight=1.0, tolerance=0.0)])
def test_a_prompt_without_an_answer_is_named(reward):
    with pytest.raises(DataError, match=r"the prompt 'q' has none; see task\.answer_key"):
        reward("q", "46")


def test_regex_format():
    def form(completion, *, whole):
        return RegexFormat(weight=1.0, pattern="<think>.*</think>", whole=whole)("q", completion)

    assert form(" <think>a\nb</think>\n", whole=True) == 1.0
    assert form("<think>a</think> b", whole=True) == 0.0
    assert form("<think>a</think> b", whole=False) == 1.0


@pytest.mark.parametrize(
    ("length", "value"), [(0, 0.0), (60, 0.0), (61, -0.025), (80, -0.5), (99, -0.975), (100, -1.0), (500, -1.0)]
)
def test_the_length_penalty_grows_over_the_cache(length, value):
    """DAPO eq. 13 with a maximum of 100 and a cache of 40."""
    assert LengthPenalty(weight=1.0, max_characters=100, cache_characters=40)("q", "x" * length) == pytest.approx(value)


def test_without_a_cache_it_is_a_step():
    penalty = LengthPenalty(weight=1.0, max_characters=3, cache_characters=0)
    assert [penalty("q", "x" * length) for length in (3, 4)] == [0.0, -1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExactMatch(weight=1.0, ignore_case=False, pattern="("), "not a regular expression"),
        (lambda: RegexFormat(weight=1.0, pattern="[", whole=True), "not a regular expression"),
        (lambda: LengthPenalty(weight=1.0, max_characters=3, cache_characters=4), "at most max_characters=3"),
        (lambda: Numeric(weight=1.0, tolerance=-1.0), "at least 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
