"""Output of `rlx bench`: a table with one column per algorithm, and a plot. Only renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlx.report.table import Column, Table, as_lines
from rlx.report.text import one_line, significant

ROWS = (
    ("tokens/s", "tokens_per_second", 1.0),
    ("completions/s", "completions_per_second", 1.0),
    ("steps/s", "steps_per_second", 1.0),
    ("time in communication, %", "communication_share", 100.0),
    ("efficiency, %", "efficiency", 100.0),
    ("peak memory, MiB", "peak_memory_bytes", 1 / 2**20),
    ("share of the matmul peak, %", "matmul_share", 100.0),
    ("score before", "score_before", 1.0),
    ("score after {tokens} tokens", "score_at_tokens", 1.0),
    ("score after {seconds} s", "score_at_seconds", 1.0),
    ("an evaluation, s", "evaluation_seconds", 1.0),
)
PHASES = ("draw", "forward", "backward", "step", "other")


def bench_lines(result: Mapping[str, Any]) -> list[str]:
    """The table as lines: median over the rounds, with smallest and largest in brackets."""
    budget, machine = result["budget"], result["machine"]
    names = list(result["algorithms"])
    summaries = [result["algorithms"][name]["summary"] for name in names]
    rows: list[list[str]] = []
    for label, key, scale in ROWS:
        if not any(key in summary for summary in summaries):  # only measured with several ranks
            continue
        shown = label.format(tokens=significant(budget["tokens"]), seconds=significant(budget["seconds"]))
        rows.append([shown, *(spread_text(summary[key], scale) for summary in summaries)])
    for phase in PHASES:
        rows.append([f"{phase}, ms a step", *(spread_text(summary["phase_milliseconds"][phase]) for summary in summaries)])
    rounds = "1 round" if budget["rounds"] == 1 else f"median of {budget['rounds']} rounds [smallest, largest]"
    about = (
        f"task {one_line(result['task'])}; {rounds}, each in a fresh process with a seed of its own; {machine['threads']} threads"
    )
    table = Table("bench", [_column(place, name) for place, name in enumerate(["", *names])], rows)
    return [*(line.plain for line in as_lines(table)), "", about]


def _column(place: int, heading: str) -> Column:
    """The column's alignment: the first to the left, the others to the right."""
    return Column(heading, lambda row: row[place], lambda row: row[place], is_text=place == 0)


def spread_text(spread: Mapping[str, Any], scale: float = 1.0) -> str:
    """`median [smallest, largest]`; `-` if a round has no value, and no brackets if all rounds agree."""
    if spread["median"] is None:
        return "-"
    median, low, high = (significant(spread[key] * scale) for key in ("median", "low", "high"))
    return median if low == high else f"{median} [{low}, {high}]"


def write_plot(result: Mapping[str, Any], path: Path) -> None:
    """Time per step by phase, tokens per second with their spread, and the scores, side by side."""
    import matplotlib
    from matplotlib.figure import Figure

    from rlx.report.figure.paper import COLOURS, STYLE, plain_label

    names = list(result["algorithms"])
    summaries = [result["algorithms"][name]["summary"] for name in names]
    labels = [plain_label(name) for name in names]
    with matplotlib.rc_context(STYLE):
        drawing = Figure(figsize=(9, 1.6 + 0.35 * len(names)), layout="constrained")
        phases, speed, score = drawing.subplots(1, 3, sharey=True)
        left = [0.0] * len(names)
        for phase, colour in zip(PHASES, COLOURS, strict=False):
            widths = [summary["phase_milliseconds"][phase]["median"] for summary in summaries]
            phases.barh(labels, widths, left=left, color=colour, label=phase)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        phases.set_xlabel("ms a step")
        phases.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
        _bars(speed, labels, [summary["tokens_per_second"] for summary in summaries], COLOURS[0])
        speed.set_xlabel("tokens/s")
        _bars(score, labels, [summary["score_at_seconds"] for summary in summaries], COLOURS[2])
        score.set_xlabel(f"score after {significant(result['budget']['seconds'])} s")
        phases.invert_yaxis()
        drawing.savefig(path, dpi=200)


def _bars(axes: Any, labels: Sequence[str], spreads: Sequence[Mapping[str, Any]], colour: str) -> None:
    """Medians as bars, with the smallest and the largest as whiskers; nothing if there are none."""
    for label, spread in zip(labels, spreads, strict=True):
        median = spread["median"]
        if median is None:
            axes.barh([label], [0.0], color=colour)
            continue
        whiskers = [[median - spread["low"]], [spread["high"] - median]]
        axes.barh([label], [median], xerr=whiskers, color=colour, capsize=3)
