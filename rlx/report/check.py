"""What `rlx check` prints: one line a law, and below a broken one what to know about it. Renders, computes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlx.report.text import one_line, safe

MARKS = {"passed": "passed", "failed": "FAILED", "not applicable": "n/a"}


def law_lines(verdict: Mapping[str, Any], *, width: int = 16) -> list[str]:
    """A law's line, and where it is broken: what is wrong, where, the smallest example, the mend."""
    mark = MARKS[str(verdict["status"])]
    figure = one_line(verdict["number"])
    promise = one_line(verdict["promise"]) if verdict["status"] != "not applicable" else figure
    number = "" if verdict["status"] == "not applicable" or not figure else f"  [{figure}]"
    lines = [f"{mark:<7} {verdict['law']:<{width}} {promise}{number}"]
    if verdict["status"] == "failed":
        for label, key in (("wrong", "wrong"), ("where", "where"), ("example", "example"), ("mend", "mend")):
            if verdict[key]:
                lines.append(f"        {label:<8} {safe(verdict[key])}")
    return lines


def summary_line(subject: str, verdicts: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """How many laws hold."""
    counts = {status: sum(verdict["status"] == status for verdict in verdicts) for status in MARKS}
    failed = [str(verdict["law"]) for verdict in verdicts if verdict["status"] == "failed"]
    result = f"breaks {', '.join(failed)}" if failed else "keeps every law that concerns it"
    return (
        f"{subject} {result}: {counts['passed']} passed, {counts['failed']} failed, "
        f"{counts['not applicable']} not applicable, in {seconds:.1f} s"
    )


def doctor_lines(facts: Iterable[Mapping[str, Any]]) -> list[str]:
    """The doctor's findings: a mark, a name, what was found and what to do."""
    rows = list(facts)
    width = max((len(str(row["name"])) for row in rows), default=0)
    lines = []
    for row in rows:
        lines.append(f"{row['mark']:<5} {row['name']:<{width}}  {one_line(row['found'])}")
        if row.get("advice"):
            lines.append(f"      {'':<{width}}  {one_line(row['advice'])}")
    return lines
