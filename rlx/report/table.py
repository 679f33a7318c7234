"""Tables of rows and columns, rendered for a terminal, Markdown, LaTeX, CSV, JSON, or an HTML page.

Each format escapes text by its own rules. The text of a cell is for people; its value is used for sorting and in CSV.
"""

from __future__ import annotations

import csv
import io
import json
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError
from rlx.record.files import json_value
from rlx.report.text import duration, one_line, significant

_FEWEST_CELLS = 12  # smallest width to which a column is cut
_FEWEST_FOLDED = 8  # smallest width to which a column is folded
_GAP = "  "


@dataclass(frozen=True)
class Column:
    """A column of a table.

    text, value: functions of a row. weight: 0 is the most important; if there is no room, the heaviest columns are dropped first.
    is_text: left-aligned text rather than a number. hint: an explanation of its heading. folds: a long cell continues in the next
    line instead of being cut. style: a function of a row that returns the cell's rich style in a terminal.
    """

    name: str
    text: Callable[[Any], str]
    value: Callable[[Any], Any]
    weight: int = 0
    is_text: bool = False
    hint: str = ""
    folds: bool = False
    style: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Table:
    """name: its id and label. rows: the input of the columns. caption, notes: above and below it, in formats that have them."""

    name: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    caption: str = ""
    notes: Sequence[str] = ()

    def lighter(self, weight: int) -> Table:
        """A copy with only the columns up to this weight."""
        return replace(self, columns=[column for column in self.columns if column.weight <= weight])

    def chosen(self, names: Sequence[str]) -> Table:
        """A copy with only the named columns, in this order; unknown names are ignored."""
        by_name = {column.name: column for column in self.columns}
        return replace(self, columns=[by_name[name] for name in names if name in by_name])


def check_columns(names: Iterable[str], tables: Sequence[Table]) -> None:
    """Raise ConfigError, with the nearest name, for a name that is not a column of any of the tables."""
    known = list(dict.fromkeys(column.name for table in tables for column in table.columns))
    for name in names:
        if name not in known:
            raise ConfigError(
                f"columns={name}: no table has it{did_you_mean(nearest(name, known))}; there are {', '.join(known)}"
            )


def table_of_lists(
    name: str, headings: Sequence[str], rows: Iterable[Sequence[Any]], *, show: Callable[[str, Any], str] | None = None
) -> Table:
    """A table from rows of values. show: a heading and a value -> text; by default numbers have four significant digits."""
    values = [list(row) for row in rows]
    for row in values:
        if len(row) != len(headings):
            raise ValueError(f"a row of {len(row)} values under {len(headings)} headings")

    def column(place: int, heading: str) -> Column:
        is_text = not all(row[place] is None or isinstance(row[place], (int, float)) for row in values)
        shown = (lambda row: significant(row[place])) if show is None else (lambda row: show(heading, row[place]))
        return Column(heading, shown, lambda row: row[place], is_text=is_text)

    return Table(name, [column(place, heading) for place, heading in enumerate(headings)], values)


def table_of_mappings(name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table from mappings of equal keys."""
    keys = list(rows[0]) if rows else []
    return table_of_lists(name, keys, ([row[key] for key in keys] for row in rows))


def show_run_value(heading: str, value: Any) -> str:
    """A value of the list of runs: ages and times as durations, seeds without separators."""
    return duration(value) if heading in ("age", "time") else str(value) if heading == "seed" else significant(value)


# A terminal.


def as_lines(table: Table, *, width: int | None = None, encoding: str = "utf-8") -> list[Text]:
    """The table as lines with its heading. width: of the terminal, in characters; None: unlimited.

    If it is too narrow, the heaviest columns are left out and named in a line below; then foldable columns are folded, or else
    the widest ones are cut with `..`, paths at their beginning.
    """
    cells = {id(c): [one_line(c.name, encoding), *(one_line(c.text(row), encoding) for row in table.rows)] for c in table.columns}
    sizes = {name: max(map(cell_len, texts)) for name, texts in cells.items()}
    kept = _fitting(table.columns, sizes, width)
    final = _squeezed(kept, [sizes[id(column)] for column in kept], width)
    lines = []
    for number in range(len(table.rows) + 1):
        row = None if number == 0 else table.rows[number - 1]
        lines += _row_lines(kept, [cells[id(column)][number] for column in kept], final, row)
    hidden = [one_line(column.name, encoding) for column in table.columns if column not in kept]
    if hidden:
        lines.append(Text(f"too narrow for the columns: {', '.join(hidden)}", style="dim", overflow="fold"))
    return lines


def _fitting(columns: Sequence[Column], sizes: Mapping[int, int], width: int | None) -> list[Column]:
    """The columns without the heaviest, until they fit; those of weight 0 stay. sizes: id of a column -> its width."""
    kept = list(columns)
    while width is not None and _total([sizes[id(c)] for c in kept]) > width and max(c.weight for c in kept) > 0:
        heaviest = max(column.weight for column in kept)
        kept.remove(next(column for column in reversed(kept) if column.weight == heaviest))
    return kept


def narrowed(table: Table, width: int) -> Table:
    """The table without the heaviest columns, so that it is at most `width` characters wide."""
    sizes = {id(c): max(cell_len(one_line(text)) for text in (c.name, *map(c.text, table.rows))) for c in table.columns}
    return replace(table, columns=_fitting(table.columns, sizes, width))


def as_plain_text(table: Table, *, width: int | None = None, encoding: str = "utf-8") -> str:
    """The lines of `as_lines` without styles."""
    return "\n".join(line.plain for line in as_lines(table, width=width, encoding=encoding))


def _total(sizes: Sequence[int]) -> int:
    return sum(sizes) + len(_GAP) * (len(sizes) - 1)


def _squeezed(columns: Sequence[Column], wanted: Sequence[int], width: int | None) -> list[int]:
    """Widths that fit: the widest column shrinks first, equal ones in turn; only foldable columns, if there are any."""
    sizes = list(wanted)
    folding = [place for place, column in enumerate(columns) if column.folds]
    giving, fewest = (folding, _FEWEST_FOLDED) if folding else (list(range(len(columns))), _FEWEST_CELLS)
    while width is not None and _total(sizes) > width and max(sizes[place] for place in giving) > fewest:
        place = max(giving, key=lambda place: sizes[place])
        second = max((sizes[other] for other in giving if other != place), default=0)
        sizes[place] = max(fewest, sizes[place] - (_total(sizes) - width), min(second, sizes[place] - 1))
    return sizes


def _row_lines(columns: Sequence[Column], cells: Sequence[str], sizes: Sequence[int], row: Any) -> list[Text]:
    """One row: one line, or several if a cell folds. row: None for the heading."""
    folded = [
        _folded(cell, size) if column.folds else [_cut(cell, size)]
        for column, cell, size in zip(columns, cells, sizes, strict=True)
    ]
    lines = []
    for depth in range(max(map(len, folded), default=1)):
        line = Text()
        for place, (column, parts, size) in enumerate(zip(columns, folded, sizes, strict=True)):
            part = parts[depth] if depth < len(parts) else ""
            blanks = " " * (size - cell_len(part))
            style = "bold" if row is None else column.style(row) if column.style is not None else ""
            line.append(_GAP if place else "").append(part + blanks if column.is_text else blanks + part, style=style or None)
        line.rstrip()
        lines.append(line)
    return lines


def _folded(text: str, size: int) -> list[str]:
    """The cell as lines, broken between words if its characters have equal width."""
    return (textwrap.wrap(text, size) if cell_len(text) == len(text) else chop_cells(text, size)) or [""]


def _cut(text: str, size: int) -> str:
    """The text cut to this width: its beginning, or for a path its end, which distinguishes it from others."""
    if cell_len(text) <= size:
        return text
    if "/" in text and " " not in text:
        return ".." + set_cell_size(text[::-1], size - 2)[::-1]
    return set_cell_size(text, size - 2) + ".."


# Files.


def as_markdown(table: Table) -> list[str]:
    """The lines of the table in Markdown."""
    lines = ["| " + " | ".join(markdown_text(column.name) for column in table.columns) + " |"]
    lines.append("| " + " | ".join("---" if column.is_text else "---:" for column in table.columns) + " |")
    for row in table.rows:
        lines.append("| " + " | ".join(markdown_text(column.text(row)) for column in table.columns) + " |")
    return lines


def markdown_text(text: str) -> str:
    """Text escaped for Markdown, on one line."""
    flat = one_line(" ".join(text.split()))
    for sign, stands in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        flat = flat.replace(sign, stands)
    return "".join("\\" + sign if sign in "\\`*_{}[]|#" else sign for sign in flat)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def as_latex(table: Table) -> str:
    """The table in LaTeX (booktabs); if it is wider than the line, it is scaled down (graphicx)."""
    spec = "".join("l" if column.is_text else "r" for column in table.columns)
    rows = [" & ".join(_tex(column.text(row)) for column in table.columns) + r" \\" for row in table.rows]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(' '.join([table.caption, *table.notes]).strip())}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{spec}}}",
        r"\toprule",
        " & ".join(_tex(column.name) for column in table.columns) + r" \\",
        r"\midrule",
        *rows,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _tex(text: str) -> str:
    flat = one_line(" ".join(text.split()))
    return "".join(_TEX.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in flat)


def as_csv(table: Table) -> str:
    """The values with a heading: not rounded, missing ones empty, lists and mappings as JSON.

    Text that a spreadsheet would run as a formula is prefixed with a quote.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if table.columns:
        writer.writerow([column.name for column in table.columns])
    writer.writerows([_csv_value(column.value(row)) for column in table.columns] for row in table.rows)
    return out.getvalue()


def _csv_value(value: Any) -> Any:
    plain = json_value(value)
    if isinstance(plain, (list, dict)):
        return json.dumps(plain)
    if isinstance(plain, str) and plain[:1] in ("=", "+", "@", "\t", "\r", "-") and not _is_numbers(plain):
        return "'" + plain
    return plain


def _is_numbers(text: str) -> bool:
    try:
        return bool([float(word) for word in text.split()])
    except ValueError:
        return False


def as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """A list of objects, in ASCII; numbers that JSON cannot represent are texts."""
    return json.dumps(json_value(list(rows)), indent=2, allow_nan=False) + "\n"


# An HTML page.


def as_cells(table: Table) -> dict[str, Any]:
    """The input of the page's template: `name`, `heads`, `rows` of cells with sort keys, and `notes`."""
    heads = [{"name": column.name, "is_text": column.is_text, "hint": column.hint} for column in table.columns]
    rows = [[_cell(column.text(row), column.value(row), column.is_text) for column in table.columns] for row in table.rows]
    return {"name": table.name, "heads": heads, "rows": rows, "notes": list(table.notes)}


def _cell(text: str, value: Any, is_text: bool) -> dict[str, Any]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    shown = f"{value:.7g}" if isinstance(value, float) and known else str(value) if known else ""
    return {"text": text, "value": shown, "is_number": is_number, "is_text": is_text}
