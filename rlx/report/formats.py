"""The tables of a comparison as files: Markdown, LaTeX and CSV, each escaped by its own rules."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlx.compare.comparison import Comparison
from rlx.report.tables import Column, pair_columns, title, variant_columns
from rlx.report.text import one_line


def markdown(comparison: Comparison) -> str:
    """Verdicts, both tables and the cautions in Markdown."""
    lines = [f"# {_md(title(comparison))}", "", *[f"- {_md(pair.words)}" for pair in comparison.pairs], ""]
    lines += _markdown_table(variant_columns(comparison), comparison.variants)
    if comparison.pairs:
        lines += ["", *_markdown_table(pair_columns(comparison), comparison.pairs)]
    if comparison.cautions:
        lines += ["", "Read with care:", "", *[f"- {_md(caution.text)}" for caution in comparison.cautions]]
    return "\n".join(lines) + "\n"


def _markdown_table(columns: Sequence[Column], rows: Iterable[Any]) -> list[str]:
    lines = ["| " + " | ".join(_md(column.name) for column in columns) + " |"]
    lines.append("| " + " | ".join("---" if column.is_text else "---:" for column in columns) + " |")
    return [*lines, *("| " + " | ".join(_md(column.text(row)) for column in columns) + " |" for row in rows)]


def _md(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
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


def _tex(text: str) -> str:
    flat = one_line(" ".join(text.split()))
    return "".join(_TEX.get(sign, "\\" + sign if sign in "&%$#_{}" else sign) for sign in flat)


def latex(comparison: Comparison) -> str:
    """Both tables as LaTeX (booktabs), for a paper; what matters least is left out."""
    n = sorted({variant.n for variant in comparison.variants})
    seeds = f"{n[0]} seeds" if len(n) == 1 else f"{n[0]} to {n[-1]} seeds"
    pick = [c for c in variant_columns(comparison) if c.weight <= 3]
    caption = f"{title(comparison)}; {seeds}, intervals of the mean by Student's t."
    parts = [_latex_table(pick, comparison.variants, caption, "variants")]
    if comparison.pairs:
        shown = [c for c in pair_columns(comparison) if c.weight <= 2]
        tests = ", ".join(dict.fromkeys(pair.test for pair in comparison.pairs))
        parts.append(_latex_table(shown, comparison.pairs, f"Differences; {tests}; p adjusted by Holm over all pairs.", "pairs"))
    return "% needs \\usepackage{booktabs}\n" + "\n".join(parts)


def _latex_table(columns: Sequence[Column], rows: Iterable[Any], caption: str, label: str) -> str:
    spec = "".join("l" if column.is_text else "r" for column in columns)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_tex(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{spec}}}",
    ]
    lines += [r"\toprule", " & ".join(_tex(column.name) for column in columns) + r" \\", r"\midrule"]
    lines += [" & ".join(_tex(column.text(row)) for column in columns) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def csv_tables(comparison: Comparison) -> dict[str, str]:
    """File name -> CSV: variants, pairs and single runs, with full precision."""
    values = comparison.to_dict()
    return {
        "variants.csv": _csv([_flat(row) for row in values["variants"]]),
        "pairs.csv": _csv([_flat(row) for row in values["pairs"]]),
        "runs.csv": _csv([_flat(row) for row in values["runs"]]),
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "scores_by_task":
            continue
        if key.endswith("interval") or key == "error":
            parts = value or {}
            kept = ("low", "high") if key != "error" else ("type", "message")
            flat.update({f"{key}_{part}": parts.get(part) for part in kept})
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys. A text that a spreadsheet would run as a formula gets a quote before it."""
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r", "-") and not _is_number_list(value):
        return "'" + value
    return value


def _is_number_list(text: str) -> bool:
    try:
        return bool([float(word) for word in text.split()])
    except ValueError:
        return False
