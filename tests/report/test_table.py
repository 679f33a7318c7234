"""Columns stand under each other, whatever is in them; each format escapes what it would read."""

import csv
import io
import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rlx.errors import ConfigError
from rlx.report.table import (
    Column,
    Table,
    as_csv,
    as_json,
    as_latex,
    as_lines,
    as_markdown,
    as_plain_text,
    check_columns,
    show_run_value,
    table_of_lists,
)
from tests.report.pages import HOSTILE

TEXT = st.text(st.characters(exclude_categories=("Mn", "Me", "Cf", "Cs")), max_size=30)
ROWS = st.lists(st.tuples(TEXT, st.none() | st.floats(), TEXT), min_size=1, max_size=5)


def table(headings, rows, *, width):
    return as_plain_text(table_of_lists("runs", headings, rows, show=show_run_value), width=width)


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
    back = list(csv.reader(io.StringIO(as_csv(table_of_lists("t", ["1", "2", "3", "4", "5"], rows)))))
    assert back[1:] == [['a,\n"b"', "0.30000000000000004", "", "[1, 2]", "NaN"], ["c", "-1", "True", "{}", ""]]


def test_json_is_standard() -> None:
    assert json.loads(as_json([{"a": math.nan, "b": None}, {"a": "é"}])) == [{"a": "NaN", "b": None}, {"a": "é"}]


def weighed(*weights: int) -> Table:
    columns = [Column(f"c{place}", lambda row: row * 10, lambda row: row, weight) for place, weight in enumerate(weights)]
    return Table("t", columns, ["x", "y"])


def test_the_heaviest_columns_go_first_and_are_named() -> None:
    lines = as_plain_text(weighed(0, 3, 1, 3), width=33).splitlines()
    assert lines[0].split() == ["c0", "c2"]
    assert lines[-1] == "too narrow for the columns: c1, c3"
    assert as_plain_text(weighed(0, 3, 1, 3), width=45).splitlines()[-1] == "too narrow for the columns: c3"


def test_a_long_label_folds_where_its_column_says_so() -> None:
    names = Column("name", lambda row: row[0], lambda row: row[0], is_text=True, folds=True)
    value = Column("value", lambda row: str(row[1]), lambda row: row[1])
    lines = as_plain_text(Table("t", [names, value], [("abcdefghijklmnopqrst", 1)]), width=19).splitlines()
    assert lines == ["name          value", "abcdefghijkl      1", "mnopqrst"]


def test_equally_wide_columns_give_way_by_turns_and_a_path_keeps_its_end() -> None:
    rows = [
        ["outputs/train/2026-11-30_10-30-38", "custom_dpo loss.beta=0.3 num_steps"],
        ["outputs/train/2026-11-30_10-31-00", "dpo"],
    ]
    lines = as_plain_text(table_of_lists("runs", ["run", "variant"], rows), width=50).splitlines()
    assert lines == [
        "run                       variant",
        "..in/2026-11-30_10-30-38  custom_dpo loss.beta=0..",
        "..in/2026-11-30_10-31-00  dpo",
    ]


def test_a_cell_has_the_style_of_its_row() -> None:
    column = Column("v", str, str, style=lambda row: "red" if row == 2 else "")
    lines = as_lines(Table("t", [column], [1, 2]))
    assert [span.style for span in lines[2].spans] == ["red"]
    assert [span.style for span in lines[1].spans] == []


def test_columns_are_chosen_by_name_and_a_wrong_one_is_refused() -> None:
    table_of_four = weighed(0, 1, 2, 3)
    assert [column.name for column in table_of_four.chosen(["c3", "c0", "elsewhere"]).columns] == ["c3", "c0"]
    assert [column.name for column in table_of_four.lighter(1).columns] == ["c0", "c1"]
    with pytest.raises(ConfigError, match="did you mean c2"):
        check_columns(["c22"], [table_of_four])


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=3))
def test_csv_starts_no_formula(rows: list) -> None:
    for row in csv.reader(io.StringIO(as_csv(table_of_lists("t", ("a", "b"), rows)), newline="")):
        for cell in row:
            assert cell[:1] not in ("=", "+", "@", "-") or float(cell) is not None


def test_latex_escapes_what_latex_reads_and_fits_its_line() -> None:
    text = as_latex(table_of_lists("t", ("a", "b"), [(HOSTILE, 1.0)]))
    assert HOSTILE not in text
    body = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}", "", text)
    assert "$" not in body
    assert body.count("{") == body.count("}")
    assert r"\resizebox{\ifdim\width>\linewidth" in text


def test_markdown_has_as_many_cells_as_headings() -> None:
    lines = as_markdown(table_of_lists("t", ("a", "b|c"), [(HOSTILE, 1.0)]))
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [3, 3, 3]
    assert lines[1] == "| --- | ---: |"
    assert "<script>" not in lines[2]
