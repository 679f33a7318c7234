"""A comparison as text: for the terminal, Markdown and LaTeX."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from rlx.comparison.choices import FEWEST
from rlx.comparison.comparison import Comparison
from rlx.comparison.pair import PairComparison
from rlx.comparison.run_difference import RunDifference
from rlx.comparison.statistics.interval import Interval
from rlx.comparison.variant import Variant
from rlx.comparison.wording import conclusion, halving_sentence, probability, quantity, score_text, verdict_lines
from rlx.fields import texts_of
from rlx.report.columns import STYLES, pair_table, variant_table
from rlx.report.table import (
    Table,
    as_latex,
    as_lines,
    as_markdown,
    as_plain_text,
    check_columns,
    markdown_text,
    narrowed,
    table_of_lists,
)
from rlx.report.text import interval, one_line, safe

MOST_PAIRS = 15
MOST_HALVED = 10  # pairs for which the ways to halve their intervals are shown
WIDE = 200  # width if the output is not a terminal, so that lines in files and pipes are not folded
LONGEST_NAMES = 80  # characters of variant names in a title
LATEX_WIDTH = 110  # characters: a wider table, scaled to the line of a 10-point page, is not legible
LATEX_ROWS = 40  # rows of a table that fit a 10-point page
LATEX_WEIGHTS = (3, 2)  # largest weights of the columns in a paper, for variants and pairs, unless columns are chosen


def title(comparison: Comparison) -> str:
    """One line that says what was compared on which task."""
    on = comparison.tasks[0] if len(comparison.tasks) == 1 else f"{len(comparison.tasks)} tasks"
    when = "the last evaluation" if comparison.choices.score == "last" else "the best evaluation"
    when += f" within {comparison.choices.at}" if comparison.choices.at is not None else ""
    when += ", lower is better" if comparison.choices.is_lower_better else ""
    size = f"{quantity(len(comparison.variants), 'variant')}, {quantity(len(comparison.runs), 'run')}"
    names = ", ".join(dict.fromkeys(variant.label for variant in comparison.variants))
    size = f"{names}: {size}" if len(names) <= LONGEST_NAMES else size
    return f"{size} on {on}: {comparison.choices.metric} at {when}"


def method_line(comparison: Comparison) -> str:
    """The tests used and why, each once."""
    used = dict.fromkeys((pair.test, pair.reason) for pair in comparison.pairs)
    if not used:
        return ""
    tests = "; ".join(f"{test} ({reason})" for test, reason in used)
    many = f"{len(comparison.pairs)} comparisons" if len(comparison.pairs) > 1 else "one comparison"
    return f"Tests: {tests}. Holm's adjustment over {many}; intervals are not adjusted."


def rank_line(comparison: Comparison) -> str:
    """Ranks over tasks as a sentence."""
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
    """The expected result of each search, as a sentence."""
    lines = []
    for search in comparison.searches:
        picks = sorted({1, max(1, search.trials // 2), search.trials})
        steps = ", ".join(f"{score_text(float(search.expected[k - 1]))} with {k}" for k in picks)
        lines.append(f"expected best of {search.algorithm} by the number of settings tried: {steps}")
    return lines


def halving_lines(comparison: Comparison) -> list[str]:
    """Whether more seeds or more prompts would help, as a sentence for each pair without a verdict."""
    undecided = [pair for pair in comparison.pairs if pair.verdict in ("inconclusive", "exploratory")]
    return [text for pair in undecided[:MOST_HALVED] if (text := halving_sentence(pair))]


def gain_line(comparison: Comparison) -> str:
    """The gain of each variant over the untrained policy, as a sentence."""
    row = comparison.untrained
    gains = [
        f"{v.label} {score_text(v.gain, signed=True)} {interval(v.gain_interval)}" for v in comparison.variants if v.gain_interval
    ]
    if row is None or not gains:
        return ""
    scope = "over seeds and prompts" if any(v.gain_over_prompts for v in comparison.variants) else "on these prompts"
    known = [v for v in comparison.variants if v.gain_interval]
    fewest = min(v.n for v in known)
    few = f" With {fewest} seeds this is exploratory." if fewest < FEWEST else ""
    gain = "Change from it, of which less is better" if comparison.choices.is_lower_better else "Gain over it"
    return f"{row.label}: {score_text(row.mean)}. {gain}, {scope}: {'; '.join(gains)}.{few}{_why_narrow(known)}"


def _why_narrow(variants: Sequence[Variant]) -> str:
    """Why the interval of a gain is narrower than that of the mean, if one is."""
    narrow = [v for v in variants if v.gain_interval and v.interval and _width(v.gain_interval) < _width(v.interval)]
    if not narrow:
        return ""
    if narrow[0].gain_over_prompts:
        return (
            f" Its interval is narrower than that of the mean, which is estimated from {narrow[0].n} scores alone: it is "
            "estimated from every answer, as the difference on the same prompts before and after training."
        )
    return (
        " Its interval is narrower than that of a mean: what a run's scores share on the same prompts before and after training "
        "cancels in their difference."
    )


def _width(found: Interval) -> float:
    return found.high - found.low


def prompt_lines(comparison: Comparison) -> list[str]:
    """Differences over the same prompts, if runs stored their answers."""
    return [
        f"{pair} over the same prompts: {score_text(gap, signed=True)} ± {score_text(error)} (standard error over prompts, for "
        "these runs; it says nothing about other seeds)."
        for pair, (gap, error) in comparison.prompt_differences.items()
    ]


# The terminal.


def console_for_output() -> Console:
    """A console on standard output; wide if it is not a terminal, unless COLUMNS sets the width."""
    width = None if sys.stdout.isatty() else shutil.get_terminal_size((WIDE, 0)).columns
    return Console(highlight=False, emoji=False, markup=False, width=width)


def print_comparison(
    comparison: Comparison, *, console: Console | None = None, files: Sequence[Path] = (), columns: Sequence[str] = ()
) -> None:
    """Print everything needed for a decision, in one or two screens. columns: of the tables, instead of all that fit."""
    out = console or console_for_output()
    out.print(Text(one_line(title(comparison), out.encoding), style="bold"), soft_wrap=not out.is_terminal)
    answer = one_line(conclusion(comparison.variants, comparison.pairs), out.encoding)
    out.print(Text(answer, style="bold"), soft_wrap=not out.is_terminal)
    out.print()
    _print_verdicts(comparison, out)
    print_table(_with_columns(variant_table(comparison), columns), out)
    out.print()
    table = pair_table(comparison)
    if table.rows and len(comparison.pairs) <= MOST_PAIRS:
        print_table(_with_columns(table, columns), out)
        out.print()
    _print_lines([gain_line(comparison), *halving_lines(comparison)], out)
    _print_lines([method_line(comparison), rank_line(comparison), *search_lines(comparison)], out)
    if comparison.cautions:
        out.print(Text("cautions", style="bold"))
        for caution in comparison.cautions:
            _bullet(safe(caution.text, out.encoding), out)
        out.print()
    for file in files:
        out.print(Text(one_line(str(file), out.encoding)), soft_wrap=True)


def print_table(table: Table, out: Console) -> None:
    """A table as wide as the console."""
    for line in as_lines(table, width=out.width, encoding=out.encoding):
        out.print(line, soft_wrap=line.overflow != "fold")


def chosen_columns(comparison: Comparison, names: Any) -> tuple[str, ...]:
    """The columns chosen by the user, one or several; empty for None. Raises ConfigError for an unknown column."""
    wanted = [part.strip() for name in texts_of("columns", names) for part in name.split(",")]
    check_columns(wanted, [variant_table(comparison), pair_table(comparison)])
    return tuple(wanted)


def _with_columns(table: Table, names: Sequence[str]) -> Table:
    chosen = table.chosen(names)
    if not chosen.columns:
        return table
    first = [column for column in table.columns if column.name in ("variant", "a", "b") and column.name not in names]
    return replace(table, columns=[*first, *chosen.columns])


def _print_verdicts(comparison: Comparison, out: Console) -> None:
    pairs = comparison.pairs
    if len(pairs) > MOST_PAIRS:
        decided = [pair for pair in pairs if pair.verdict in ("better", "worse", "equivalent")]
        first = comparison.variants[0].label
        shown = _pairs_of_best(comparison, most=MOST_PAIRS)
        counts = f"{len(pairs)} pairs, {len(decided)} decided; those of {first}, which has the best mean:"
        out.print(Text(one_line(counts, out.encoding)), soft_wrap=True)
    else:
        shown = list(pairs)
    for words, verdict in verdict_lines(shown):
        _bullet(one_line(words, out.encoding), out, style=STYLES[verdict])
    if shown:
        out.print()


def _pairs_of_best(comparison: Comparison, *, most: int) -> list[PairComparison]:
    """Only the pairs with the best variant if there are more than `most`, else all pairs."""
    if len(comparison.pairs) <= most:
        return list(comparison.pairs)
    first = comparison.variants[0].label
    return [pair for pair in comparison.pairs if first in (pair.a, pair.b)][:most]


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


# Files.


def markdown(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Verdicts, both tables and the cautions in Markdown."""
    lines = [
        f"# {markdown_text(title(comparison))}",
        "",
        *[f"- {markdown_text(words)}" for words, _ in verdict_lines(comparison.pairs)],
        "",
    ]
    lines += as_markdown(_with_columns(variant_table(comparison), columns))
    if pair_table(comparison).rows:
        lines += ["", *as_markdown(_with_columns(pair_table(comparison), columns))]
    if comparison.cautions:
        lines += ["", "Cautions:", "", *[f"- {markdown_text(caution.text)}" for caution in comparison.cautions]]
    return "\n".join(lines) + "\n"


def latex(comparison: Comparison, columns: Sequence[str] = ()) -> str:
    """Both tables as LaTeX, for a paper: the chosen or most important columns, and as many rows as fit a page."""
    n = sorted({variant.n for variant in comparison.variants})
    seeds = f"{n[0]} seeds" if len(n) == 1 else f"{n[0]} to {n[-1]} seeds"
    tests = ", ".join(dict.fromkeys(pair.test for pair in comparison.pairs))
    variants, pairs = comparison.variants[:LATEX_ROWS], _pairs_of_best(comparison, most=LATEX_ROWS)
    captions = [
        f"{title(comparison)}; {seeds}, intervals of the mean by Student's t.",
        f"Differences; {tests}; p adjusted by Holm over all pairs.",
    ]
    if len(variants) < len(comparison.variants):
        captions[0] += f" The {len(variants)} with the best means of {len(comparison.variants)} variants."
    if len(pairs) < len(comparison.pairs):
        captions[1] += f" {len(pairs)} of {len(comparison.pairs)} pairs: those of {variants[0].label}, which has the best mean."
    shortened = replace(comparison, variants=variants, pairs=tuple(pairs))
    tables = (variant_table(shortened), pair_table(shortened))
    parts = []
    for table, caption, weight in zip(tables, captions, LATEX_WEIGHTS, strict=True):
        if table.rows:
            shown = _with_columns(table, columns) if columns else narrowed(table.lighter(weight), LATEX_WIDTH)
            parts.append(as_latex(replace(shown, caption=caption)))
    return "% needs \\usepackage{booktabs} and \\usepackage{graphicx}\n" + "\n".join(parts)


# The output of `rlx compare RUN RUN diff=true`: the differences of two runs.


_MOST_METRICS = 12


def difference_lines(difference: RunDifference, *, width: int | None = None) -> list[str]:
    """The conclusion, then the differences: configs, code, versions, first differing metrics, results."""
    sections = (
        ("config", difference.config),
        ("code", difference.code),
        ("versions and machine", difference.versions),
        ("results", difference.results),
    )
    lines = [f"a  {one_line(difference.a)}", f"b  {one_line(difference.b)}", "", *_conclusion(difference)]
    parting = difference.parting
    if parting is not None:
        first = dict(list(parting.values.items())[:_MOST_METRICS])
        more = len(parting.values) - len(first)
        lines += ["", f"metrics at step {parting.step}", *_table(first, width)]
        lines += [f"  and {more} more"] if more else []
    for name, pairs in sections:
        lines += ["", name, *_table(pairs, width)] if pairs else ["", f"{name}: the same"]
    return lines


def _conclusion(difference: RunDifference) -> list[str]:
    parting, (a, b) = difference.parting, difference.lines
    ran = f"{quantity(a, 'line')} of metrics" if a == b else f"{a} and {b} lines of metrics"
    kinds = (("config", difference.config), ("code", difference.code), ("versions or machine", difference.versions))
    causes = [name for name, pairs in kinds if pairs]
    why = f"they differ in {' and '.join(causes)}" if causes else "they agree in config, code, versions and machine"
    if min(a, b) == 0:
        return [f"Nothing is known about where they part: {ran}; {why}."]
    if parting is None:
        return [f"Their metrics agree to the last bit over all steps that both have ({ran}); {why}."]
    start = "from the first line on" if parting.step == 0 else f"at step {parting.step}, and agree before it"
    return [f"Their metrics part {start} ({ran}); {why}."]


def _table(pairs: Mapping[str, tuple[Any, Any]], width: int | None) -> list[str]:
    rows = [(key, _value(a), _value(b)) for key, (a, b) in pairs.items()]
    text = as_plain_text(table_of_lists("difference", ("", "a", "b"), rows), width=None if width is None else width - 2)
    return [f"  {line}" for line in text.splitlines()]


def _value(value: Any) -> str:
    """A value with all digits, as two runs may differ in the last one."""
    return repr(value) if isinstance(value, float) else str(value)
