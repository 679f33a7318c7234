"""A comparison in the terminal: verdicts first, then the tables, then what to be careful about."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rlx.comparison.comparison import Comparison, compare
from rlx.comparison.wording import conclusion
from rlx.errors import EvidenceError, RlxError
from rlx.report.tables import Column, method_line, pair_columns, rank_line, search_lines, title, variant_columns
from rlx.report.text import one_line, safe

STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "equivalent": "bold cyan",
    "inconclusive": "yellow",
    "exploratory": "yellow",
}
FOLDED = ("variant", "a", "b")  # labels may be long
MOST_PAIRS = 15
WIDE = 200  # where the output is no terminal: files and pipes are not folded


def console_for_output() -> Console:
    """The console of standard output, wide when nobody sits in front of it, unless COLUMNS says how wide."""
    width = None if sys.stdout.isatty() else shutil.get_terminal_size((WIDE, 0)).columns
    return Console(highlight=False, emoji=False, markup=False, width=width)


def print_comparison(comparison: Comparison, *, console: Console | None = None, files: Sequence[Path] = ()) -> None:
    """Everything one needs to decide, on a screen or two."""
    out = console or console_for_output()
    out.print(Text(one_line(title(comparison), out.encoding), style="bold"), soft_wrap=not out.is_terminal)
    answer = one_line(conclusion(comparison.variants, comparison.pairs), out.encoding)
    out.print(Text(answer, style="bold"), soft_wrap=not out.is_terminal)
    out.print()
    _print_verdicts(comparison, out)
    out.print(_table(variant_columns(comparison), comparison.variants, out))
    out.print()
    if comparison.pairs and len(comparison.pairs) <= MOST_PAIRS:
        out.print(_table(pair_columns(comparison), comparison.pairs, out))
        out.print()
    _print_lines([method_line(comparison), rank_line(comparison), *search_lines(comparison)], out)
    if comparison.cautions:
        out.print(Text("read with care", style="bold"))
        for caution in comparison.cautions:
            _bullet(safe(caution.text, out.encoding), out)
        out.print()
    for file in files:
        out.print(Text(one_line(str(file), out.encoding)), soft_wrap=True)


def _print_verdicts(comparison: Comparison, out: Console) -> None:
    pairs = comparison.pairs
    if len(pairs) > MOST_PAIRS:
        decided = [pair for pair in pairs if pair.verdict in ("better", "worse", "equivalent")]
        first = comparison.variants[0].label
        shown = [pair for pair in pairs if first in (pair.a, pair.b)][:MOST_PAIRS]
        counts = f"{len(pairs)} pairs, {len(decided)} decided; those of {first}, which has the highest mean:"
        out.print(Text(one_line(counts, out.encoding)), soft_wrap=True)
    else:
        shown = list(pairs)
    for pair in shown:
        _bullet(one_line(pair.words, out.encoding), out, style=STYLES[pair.verdict])
    if shown:
        out.print()


def _bullet(text: str, out: Console, *, style: str = "") -> None:
    line = Text(text)
    if style:
        line.stylize(style)
    if out.is_terminal:
        out.print(Padding(line, (0, 0, 0, 2)))
    else:
        out.print(Text("  ").append_text(line), soft_wrap=True)


def _print_lines(lines: Sequence[str], out: Console) -> None:
    for line in filter(None, lines):
        out.print(Text(one_line(line, out.encoding)), soft_wrap=not out.is_terminal)
    if any(lines):
        out.print()


def _table(columns: Sequence[Column], rows: Sequence[Any], out: Console) -> Table:
    """As many columns as there is room for, the least important left out first."""
    cells = {column.name: [one_line(column.text(row), out.encoding) for row in rows] for column in columns}
    width = {column.name: max(len(column.name), *(len(cell) for cell in cells[column.name])) + 2 for column in columns}
    kept = [column for column in columns if column.weight < 6]
    while sum(width[column.name] for column in kept) > out.width and max(column.weight for column in kept) > 0:
        heaviest = max(column.weight for column in kept)
        kept.remove(next(column for column in reversed(kept) if column.weight == heaviest))
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in kept:
        table.add_column(
            column.name, justify="left" if column.is_text else "right", no_wrap=column.name not in FOLDED, overflow="fold"
        )
    for index, row in enumerate(rows):
        texts = [
            Text(cells[column.name][index], style=STYLES.get(row.verdict, "") if column.name == "verdict" else "")
            for column in kept
        ]
        table.add_row(*texts)
    return table


def print_sweep(directory: Path, *, console: Console | None = None, **choices: Any) -> Comparison | None:
    """What a sweep says at its end: the comparison of its own runs; where they cannot carry one, why, and the bare figures.

    Never raises an error of rlx's: the sweep itself went well.
    """
    out = console or console_for_output()
    try:
        comparison = compare(directory, **choices)
    except EvidenceError as refused:
        out.print(Text(safe(str(refused), out.encoding)), soft_wrap=not out.is_terminal)
        everything = ["single", "tasks", "missing", "budget", "unfinished", "damaged"]
        try:
            comparison = compare(directory, **{**choices, "allow": everything})
        except RlxError:
            return None
        out.print()
        out.print(_table(variant_columns(comparison), comparison.variants, out))
        return comparison
    except RlxError as error:
        out.print(Text(f"no comparison: {safe(str(error), out.encoding)}"), soft_wrap=True)
        return None
    print_comparison(comparison, console=out)
    out.print(Text(f"the page with figures: rlx compare {directory}"), soft_wrap=True)
    return comparison
