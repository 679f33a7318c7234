"""Columns stand under each other, whatever is in them."""

import csv
import io
import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rlx.report.terminal import as_csv, as_json, table

TEXT = st.text(st.characters(exclude_categories=("Mn", "Me", "Cf", "Cs")), max_size=30)
ROWS = st.lists(st.tuples(TEXT, st.none() | st.floats(), TEXT), min_size=1, max_size=5)


@settings(deadline=None)
@given(ROWS, st.integers(44, 120))
def test_no_line_is_wider_than_the_terminal(rows: list, width: int) -> None:
    lines = table(("run", "score", "variant"), rows, width=width).splitlines()
    assert len(lines) == len(rows) + 1
    assert max(map(cell_len, lines)) <= width


def test_without_a_terminal_nothing_is_shortened() -> None:
    shown = table(("run", "age", "seed"), [("x" * 300, 7200.0, 12345), ("y", None, None)], width=None)
    assert shown.splitlines() == [
        "run" + " " * 299 + "age" + "   seed",
        "x" * 300 + "  2 h  12345",
        "y" + " " * 301 + "  -   None",
    ]


def test_numbers_to_the_right_and_text_to_the_left() -> None:
    shown = table(("run", "score"), [("a", 0.5), ("long", 0.61234)], width=None)
    assert shown.splitlines() == ["run    score", "a        0.5", "long  0.6123"]


def test_columns_of_wide_characters_stand_under_each_other() -> None:
    lines = table(("run", "task"), [("中文", "a"), ("ab", "b")], width=None).splitlines()
    assert lines[1:] == ["中文  a", "ab    b"]


def test_csv_keeps_every_digit_and_every_character() -> None:
    rows = [['a,\n"b"', 0.1 + 0.2, None, [1, 2], math.nan], ["c", -1, True, {}, ""]]
    back = list(csv.reader(io.StringIO(as_csv(["1", "2", "3", "4", "5"], rows))))
    assert back[1:] == [['a,\n"b"', "0.30000000000000004", "", "[1, 2]", "NaN"], ["c", "-1", "True", "{}", ""]]


def test_json_is_standard() -> None:
    assert json.loads(as_json([{"a": math.nan, "b": None}, {"a": "é"}])) == [{"a": "NaN", "b": None}, {"a": "é"}]
