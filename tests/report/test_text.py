"""Text from data cannot steer a terminal; numbers read as people write them."""

import math
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlx.comparison.statistics.interval import Interval
from rlx.comparison.wording import quantity
from rlx.report.text import duration, interval, level, one_line, percent, safe, significant

ANY = st.text(st.characters(exclude_categories=()))


@settings(deadline=None)
@example("\u2028\x85\x1b[2J\r", "utf-8")
@given(ANY, st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252"]))
def test_no_text_steers_the_terminal_or_breaks_its_encoding(text: str, encoding: str) -> None:
    shown = safe(text, encoding)
    shown.encode(encoding)
    assert not {character for character in shown if unicodedata.category(character) in ("Cc", "Cs")} - {"\n", "\t"}
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert len(one_line(text, encoding).splitlines()) <= 1


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert safe(text, "ascii") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.0, "0"),
        (8192, "8,192"),
        (0.61342, "0.6134"),
        (12.3456, "12.35"),
        (1234.56, "1,235"),
        (1e-5, "1.00e-05"),
        (-0.00012, "-1.20e-04"),
        (2.0e6, "2,000,000"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (True, "True"),
        ("log 2", "log 2"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert significant(value) == text


@given(st.floats(1e-3, 1e9) | st.floats(-1e9, -1e-3))
def test_a_number_is_right_to_four_digits(value: float) -> None:
    assert float(significant(value).replace(",", "")) == pytest.approx(value, rel=6e-4)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (0, "0 s"),
        (-3, "0 s"),
        (59.4, "59 s"),
        (59.9, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (356400, "4 d 3 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_one_thing_is_singular():
    assert [quantity(number, "run") for number in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]


@pytest.mark.parametrize(
    ("share", "text"), [(0.001, "<1 %"), (0.999, ">99 %"), (0.5, "50 %"), (1.0, "100 %"), (0.0, "0 %"), (None, "-")]
)
def test_percent(share: float | None, text: str) -> None:
    assert percent(share) == text


def test_intervals_and_their_level(ordinary) -> None:
    assert interval(None) == "-"
    assert interval(Interval(0.71234, 0.75, 0.95, "t")) == "[0.712, 0.750]"
    assert level(ordinary) == "95 %"
