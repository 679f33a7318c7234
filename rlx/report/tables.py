"""The columns of a comparison's tables: how each number reads, and what it sorts by."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.comparison.comparison import Comparison
from rlx.comparison.statistics.interval import Interval
from rlx.comparison.wording import probability, span
from rlx.comparison.wording import score_text as number
from rlx.report.text import count, duration, figure, one_line


@dataclass(frozen=True)
class Column:
    """A column: its heading, its text for a row, its value for sorting and CSV, and how much it matters (0 most)."""

    name: str
    text: Callable[[Any], str]
    value: Callable[[Any], Any]
    weight: int = 0
    is_text: bool = False
    hint: str = ""


def interval(found: Interval | None) -> str:
    """`[0.71, 0.75]`, or a dash."""
    return "-" if found is None else f"[{number(found.low)}, {number(found.high)}]"


def percent(share: float | None) -> str:
    """A probability in percent."""
    if share is None:
        return "-"
    return "<1 %" if 0 < share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def variant_columns(comparison: Comparison) -> list[Column]:
    """The columns of the table of variants; those that no variant fills are left out."""
    level = f"{100 * comparison.choices.level:g} %"
    columns = [
        Column("rank", lambda v: str(v.rank), lambda v: v.rank, 1),
        Column("variant", lambda v: v.label, lambda v: v.label, 0, is_text=True),
        Column("mean", lambda v: number(v.mean), lambda v: v.mean, 0, hint="mean score over seeds"),
        Column(
            f"{level} interval", lambda v: interval(v.interval), lambda v: _low(v.interval), 0, hint="of the mean (Student's t)"
        ),
        Column("seeds", lambda v: str(v.n), lambda v: v.n, 0, hint="independent seeds behind the scores"),
        Column("runs", lambda v: str(v.runs), lambda v: v.runs, 5),
        Column("failed", lambda v: str(v.failed), lambda v: v.failed, 2, hint="failed or unfinished runs"),
        Column("IQM", lambda v: number(v.iqm), lambda v: v.iqm, 2, hint="interquartile mean; below 4 scores it is the mean"),
        Column("IQM interval", lambda v: interval(v.iqm_interval), lambda v: _low(v.iqm_interval), 5),
        Column("std", lambda v: number(v.std), lambda v: v.std, 1, hint="standard deviation over seeds"),
        Column("best", lambda v: number(v.best), lambda v: v.best, 3),
        Column("worst", lambda v: number(v.worst), lambda v: v.worst, 3),
        Column(
            "gap",
            lambda v: number(v.optimality_gap),
            lambda v: v.optimality_gap,
            3,
            hint="optimality gap: mean shortfall from the target",
        ),
        Column(
            "first",
            lambda v: percent(None if v.first_probability is None else min(v.first_probability, 0.999)),
            lambda v: v.first_probability,
            1,
            hint="bootstrap probability of being first",
        ),
        Column(
            "area",
            lambda v: number(v.area_under_curve),
            lambda v: v.area_under_curve,
            4,
            hint="mean height of the learning curve",
        ),
        Column(
            "noise",
            lambda v: number(v.evaluation_error),
            lambda v: v.evaluation_error,
            5,
            hint="standard error over prompts within a run",
        ),
        Column("KL", lambda v: number(v.kl), lambda v: v.kl, 2, hint="to the reference, nats per completion"),
        Column("steps", lambda v: figure(v.steps), lambda v: v.steps, 4),
        Column("tokens", lambda v: figure(v.tokens), lambda v: v.tokens, 3, hint="sampled and trained, a run"),
        Column("time", lambda v: duration(v.seconds), lambda v: v.seconds, 4, hint="a run"),
    ]
    always = {"rank", "variant", "seeds", "runs", "failed", "mean", "std"}
    return [c for c in columns if c.name in always or any(c.value(v) is not None for v in comparison.variants)]


def pair_columns(comparison: Comparison) -> list[Column]:
    """The columns of the table of pairs."""
    level = f"{100 * comparison.choices.level:g} %"
    columns = [
        Column("a", lambda p: p.a, lambda p: p.a, 0, is_text=True),
        Column("b", lambda p: p.b, lambda p: p.b, 0, is_text=True),
        Column("a - b", lambda p: number(p.difference, signed=True), lambda p: p.difference, 0),
        Column(
            f"{level} interval",
            lambda p: "-" if p.low != p.low else span(p.low, p.high),
            lambda p: p.low,
            0,
            hint="of the difference, for itself",
        ),
        Column("verdict", lambda p: p.verdict, lambda p: p.verdict, 0, is_text=True, hint="of a against b"),
        Column("p", lambda p: probability(p.p), lambda p: p.p, 3),
        Column("adjusted p", lambda p: probability(p.p_adjusted), lambda p: p.p_adjusted, 1, hint="Holm, over all pairs here"),
        Column(
            "Hedges g",
            lambda p: number(p.effect_size, signed=True),
            lambda p: p.effect_size,
            2,
            hint="difference in standard deviations",
        ),
        Column("g interval", lambda p: interval(p.effect_size_interval), lambda p: _low(p.effect_size_interval), 5),
        Column(
            "P(a > b)",
            lambda p: percent(p.probability_of_improvement),
            lambda p: p.probability_of_improvement,
            2,
            hint="chance that a run of a beats one of b",
        ),
        Column(
            "P interval",
            lambda p: interval(p.probability_of_improvement_interval),
            lambda p: _low(p.probability_of_improvement_interval),
            5,
        ),
        Column(
            "detectable",
            lambda p: number(p.minimum_detectable_difference),
            lambda p: p.minimum_detectable_difference,
            3,
            hint="smallest difference that these seeds find with 80 % power",
        ),
        Column(
            "seeds needed",
            lambda p: figure(p.seeds_needed),
            lambda p: p.seeds_needed,
            3,
            hint="each, to find a difference as large as this one with 80 % power",
        ),
        Column(
            "rank test p",
            lambda p: probability(p.p_rank),
            lambda p: p.p_rank,
            7,
            hint="Mann-Whitney, not adjusted: a second look, no verdict",
        ),
        Column("test", lambda p: p.test, lambda p: p.test, 5, is_text=True),
    ]
    return [c for c in columns if c.name != "rank test p" or any(c.value(p) is not None for p in comparison.pairs)]


def _low(found: Interval | None) -> float | None:
    return None if found is None else found.low


def title(comparison: Comparison) -> str:
    """One line that says what was compared on what."""
    on = comparison.tasks[0] if len(comparison.tasks) == 1 else f"{len(comparison.tasks)} tasks"
    when = "the last evaluation" if comparison.choices.score == "last" else "the best evaluation"
    size = f"{count(len(comparison.variants), 'variant')}, {count(len(comparison.runs), 'run')}"
    return f"{size} on {on}: {comparison.choices.metric} at {when}"


def method_line(comparison: Comparison) -> str:
    """Which tests were used and why, once each."""
    used = dict.fromkeys((pair.test, pair.reason) for pair in comparison.pairs)
    if not used:
        return ""
    tests = "; ".join(f"{test} ({reason})" for test, reason in used)
    many = f"{len(comparison.pairs)} comparisons" if len(comparison.pairs) > 1 else "one comparison"
    return f"Tests: {tests}. Holm's adjustment over {many}; intervals are each for itself."


def rank_line(comparison: Comparison) -> str:
    """Ranks over tasks in a sentence."""
    ranks = comparison.ranks
    if ranks is None:
        return ""
    means = ", ".join(f"{v.label} {rank:.2f}" for v, rank in zip(comparison.variants, ranks.mean_ranks, strict=True))
    return (
        f"Mean ranks over {ranks.num_tasks} tasks: {means}. Friedman's test in Iman and Davenport's form: "
        f"p {probability(ranks.p)}. "
        f"Two variants differ if their mean ranks are {ranks.critical_difference:.2f} apart (Nemenyi)."
    )


def search_lines(comparison: Comparison) -> list[str]:
    """What each search may expect, in a sentence."""
    lines = []
    for search in comparison.searches:
        picks = sorted({1, max(1, search.trials // 2), search.trials})
        steps = ", ".join(f"{number(float(search.expected[k - 1]))} with {k}" for k in picks)
        lines.append(f"expected best of {search.algorithm} by the number of settings tried: {steps}")
    return lines


# The tables of a comparison as files: Markdown, LaTeX and CSV, each escaped by its own rules.


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
