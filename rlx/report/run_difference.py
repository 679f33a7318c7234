"""What `rlx compare RUN RUN diff=true` prints: the difference of two runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlx.comparison.run_difference import RunDifference
from rlx.report.table import as_plain_text, table_of_lists
from rlx.report.text import count, one_line

_MOST_METRICS = 12


def difference_lines(difference: RunDifference, *, width: int | None = None) -> list[str]:
    """The conclusion, then what differs: configs, code, versions, metrics where they part, results."""
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
    ran = f"{count(a, 'line')} of metrics" if a == b else f"{a} and {b} lines of metrics"
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
    """Every digit, for two runs may differ in the last."""
    return repr(value) if isinstance(value, float) else str(value)
