"""A survey of data as text for a terminal, and as one HTML page."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rlx.report.text import one_line

if TYPE_CHECKING:
    from rlx.data.survey import DataSurvey

_BAR = 40
# the style of a token: in the prompt, learned, or written by another role
_STYLES = {"prompt": "dim", "learned": "green", "masked": "bright_black strike"}


def survey_lines(survey: DataSurvey) -> list[str]:
    """The lines of a survey of data, without its examples."""
    counts = survey.counts
    first = (
        f"{counts['read']:,} rows read, {counts['kept']:,} kept, {counts['dropped']:,} dropped; "
        f"{counts['learn']:,} to learn from, {counts['held_out']:,} held out; {counts['prompts']:,} different prompts"
    )
    lines = [first]
    for row in survey.dropped:
        lines += [f"dropped    {row['count']:,} {row['meaning']}{_said(row)}", f"           for example {_source(row)}"]
    for row in survey.remarks:
        lines += [f"altered    {row['count']:,} {row['meaning']}", f"           for example {_source(row)}"]
    others = {
        "duplicates": "duplicate rows",
        "in_both": "prompts both learned and held out",
        "white_space_pairs": "pairs that differ only in white space",
    }
    lines.append(
        ", ".join(f"{counts.get(name, 0):,} {what}" for name, what in {**others, "truncated": "truncated prompts"}.items())
    )
    for name, values in survey.lengths.items():
        quantiles = "  ".join(f"{float(q):.0%} {value:g}" for q, value in values["quantiles"].items())
        lines += ["", f"{name}: tokens, mean {values['mean']:.1f}  {quantiles}"]
        most = max(bin_["count"] for bin_ in values["histogram"])
        for bin_ in values["histogram"]:
            bar = "#" * -(-bin_["count"] * _BAR // most) if bin_["count"] else ""
            lines.append(f"  {bin_['from']:>8} to {bin_['to']:<8} {bin_['count']:>8,} {bar}")
    if survey.chosen_longer is not None:
        lines += ["", f"the chosen side is longer in {survey.chosen_longer:.0%} of the pairs (ties count half)"]
    if survey.tokens_per_step:
        lines.append(f"a step reads about {survey.tokens_per_step:,.0f} tokens")
    for one in survey.rewards:
        given = one.get("error") or ", ".join(f"{name} {value:g}" for name, value in one["rewards"].items())
        lines.append(f"rewards    {one['name']} {one_line(repr(one['completion']))}: {one_line(given)}")
    lines += [f"note       {one_line(note)}" for note in survey.notes]
    return lines + [f"caution    {one_line(caution)}" for caution in survey.cautions]


def _said(row: dict[str, Any]) -> str:
    return f" ({one_line(row['said'])})" if row["said"] else ""


def _source(row: dict[str, Any]) -> str:
    example = row["example"]
    said = f": {one_line(repr(example['prompt']))[:100]}" if example.get("prompt") else ""
    return one_line(example["source"] or "a row") + said


def example_pieces(example: dict[str, Any], decode: Callable[[list[int]], str]) -> list[list[tuple[str, str]]]:
    """For the prompt and each completion, (text, kind) token by token; kind is prompt, learned or masked."""
    pieces = [[(decode([token]), "prompt") for token in example["prompt_ids"]]]
    for completion in example["completions"]:
        kinds = ("learned" if learned else "masked" for learned in completion["learned"])
        pieces.append([(decode([token]), kind) for token, kind in zip(completion["ids"], kinds, strict=True)])
    return pieces


def example_text(example: dict[str, Any], decode: Callable[[list[int]], str]) -> Any:
    """An example for a terminal: the prompt dim, learned tokens green, those of others struck through."""
    from rich.text import Text as Styled

    shown = Styled()
    for number, part in enumerate(example_pieces(example, decode)):
        shown.append(f"{'prompt' if not number else f'completion {number}':13}", style="bold")
        for text, kind in part:
            shown.append(one_line(text), style=_STYLES[kind])
        shown.append("\n")
    return shown


def survey_page(survey: DataSurvey, decode: Callable[[list[int]], str], *, title: str) -> str:
    """One self-contained page: the survey, and its examples token by token."""
    rows: list[str] = []
    for example in survey.examples:
        rows.append("<article>" + "".join(_part(part) for part in example_pieces(example, decode)) + "</article>")
    style = (
        "body{font:15px/1.5 system-ui;margin:2rem auto;max-width:70rem;padding:0 1rem}"
        "pre,p,h1{white-space:pre-wrap;overflow-wrap:anywhere}"
        "article{border-top:1px solid #8884;padding:.5rem 0}p{margin:.3rem 0;font-family:monospace}"
        "i,b,s{font-style:normal;font-weight:400;outline:1px solid #8883}i{opacity:.55}b{background:#2a83}s{opacity:.5}"
    )
    facts = html.escape("\n".join(survey_lines(survey)))
    legend = "<p><i>prompt</i> <b>learned</b> <s>context, not learned</s></p>"
    return (
        f'<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style>"
        f"<h1>{html.escape(title)}</h1><pre>{facts}</pre>{legend}{''.join(rows)}"
    )


def _part(part: Sequence[tuple[str, str]]) -> str:
    tags = {"prompt": "i", "learned": "b", "masked": "s"}
    return "<p>" + "".join(f"<{tags[kind]}>{html.escape(one_line(text))}</{tags[kind]}>" for text, kind in part) + "</p>"
