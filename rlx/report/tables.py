"""The columns of a comparison's tables: how each number reads, and what it sorts by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlx.compare.comparison import Comparison
from rlx.compare.interval import Interval
from rlx.compare.words import number, probability, span
from rlx.report.text import count, duration, figure


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
