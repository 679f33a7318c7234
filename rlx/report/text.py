"""Text for display: strings from data without control characters, and formatted numbers."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from rlx.comparison.wording import score_text

if TYPE_CHECKING:
    from rlx.comparison.comparison import Comparison
    from rlx.comparison.statistics.interval import Interval

# control characters, and marks that reorder the text after them
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def safe(text: Any, encoding: str = "utf-8") -> str:
    """`text` with every terminal control character escaped; newlines and tabs are kept."""
    shown = _UNSAFE.sub(lambda found: found.group().encode("unicode_escape").decode(), str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def one_line(text: Any, encoding: str = "utf-8") -> str:
    """`text` on one line."""
    return safe(text, encoding).replace("\n", "\\n").replace("\t", " ")


def significant(value: Any) -> str:
    """A number with four significant digits, integers in full; `-` for None; other values as text."""
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}"


def duration(seconds: float | None) -> str:
    """A duration as `8 s`, `3 min 20 s`, `2 h 5 min` or `4 d 3 h`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    left = max(0, round(seconds))
    for large, name, small, rest in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if left >= large:
            whole, part = divmod(left, large)
            return f"{whole} {name} {part // small} {rest}" if part >= small else f"{whole} {name}"
    return f"{left} s"


def interval(found: Interval | None) -> str:
    """`[0.71, 0.75]`, or a dash."""
    return "-" if found is None else f"[{score_text(found.low)}, {score_text(found.high)}]"


def percent(share: float | None) -> str:
    """A probability in percent, or a dash."""
    if share is None:
        return "-"
    return "<1 %" if 0 < share < 0.01 else ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def level(comparison: Comparison) -> str:
    """The level of a comparison's intervals: `95 %`."""
    return f"{100 * comparison.choices.level:g} %"
