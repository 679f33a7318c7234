"""The list of runs as an aligned table, as CSV and as JSON. Renders, computes nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from rlx.record.files import json_value
from rlx.report.text import duration, figure, one_line

_DURATIONS = ("age", "time")
_FEWEST_CELLS = 12  # that a column is shortened to


def cell(name: str, value: Any) -> str:
    """A value as the table shows it."""
    return duration(value) if name in _DURATIONS else figure(value) if name != "seed" else str(value)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, width: int | None, encoding: str = "utf-8") -> str:
    """Columns of text, numbers to the right. width: of the terminal, the widest columns are shortened to it; None: whole."""
    values = [list(row) for row in rows]
    lines = [[one_line(text, encoding) for text in headings]]
    lines += [[one_line(cell(name, value), encoding) for name, value in zip(headings, row, strict=True)] for row in values]
    numeric = [
        all(row[place] is None or isinstance(row[place], (int, float)) for row in values) for place in range(len(headings))
    ]
    sizes = [max(cell_len(line[place]) for line in lines) for place in range(len(headings))]
    while width is not None and sum(sizes) + 2 * (len(sizes) - 1) > width and max(sizes) > _FEWEST_CELLS:
        over = sum(sizes) + 2 * (len(sizes) - 1) - width
        place = sizes.index(max(sizes))
        second = max([size for size in sizes if size < sizes[place]], default=0)
        sizes[place] = max(_FEWEST_CELLS, sizes[place] - over, min(second, sizes[place] - 1))
    return "\n".join("  ".join(map(_fitted, line, sizes, numeric)).rstrip() for line in lines)


def _fitted(text: str, size: int, to_the_right: bool) -> str:
    if cell_len(text) > size:
        return set_cell_size(text, size - 2) + ".."
    blanks = " " * (size - cell_len(text))
    return blanks + text if to_the_right else text + blanks


def as_csv(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Plain values with a heading; nothing is rounded, and what is missing is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headings)
    for row in rows:
        plain = [json_value(value) for value in row]
        writer.writerow([json.dumps(value) if isinstance(value, (list, dict)) else value for value in plain])
    return out.getvalue()


def as_json(rows: Iterable[Mapping[str, Any]]) -> str:
    """One list of objects, in ASCII."""
    return json.dumps(json_value(list(rows)), indent=2, allow_nan=False) + "\n"
