"""The tables of a comparison: variants, pairs, runs, and config differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from rlx.comparison.comparison import Comparison
from rlx.comparison.scores import RunScore
from rlx.comparison.wording import merged, probability, quantity, score_text, span
from rlx.report.table import Column, Table, table_of_mappings
from rlx.report.text import duration, interval, level, percent, significant

STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "equivalent": "bold cyan",
    "inconclusive": "yellow",
    "exploratory": "yellow",
}
MOST_CONFIG_COLUMNS = 12
MOST_RUNS = 1000  # rows on the page; runs.csv has all


def _field(name: str, key: str, show: Callable[[Any], str], weight: int = 0, hint: str = "") -> Column:
    """A column for a numeric field."""
    value = attrgetter(key)
    return Column(name, lambda row: show(value(row)), value, weight, hint=hint)


def _words(name: str, key: str, weight: int = 0, *, folds: bool = False) -> Column:
    """A column for a text field."""
    return Column(name, attrgetter(key), attrgetter(key), weight, is_text=True, folds=folds)


def _interval(name: str, key: str, weight: int = 0, hint: str = "") -> Column:
    """A column for an interval, sorted by its lower end."""
    value = attrgetter(key)
    return Column(
        name, lambda row: interval(value(row)), lambda row: None if value(row) is None else value(row).low, weight, hint=hint
    )


def _signed(value: float | None) -> str:
    return score_text(value, signed=True)


def variant_table(comparison: Comparison) -> Table:
    """One row per variant, and one for the untrained policy (step 0); columns that no variant fills are left out."""
    columns = [
        _field("rank", "rank", lambda rank: str(rank) if rank else "", 1),
        _words("variant", "label", folds=True),
        _field("mean", "mean", score_text, hint="mean score over seeds"),
        _interval(f"{level(comparison)} interval", "interval", hint="of the mean over seeds, on these prompts"),
        _field("seeds", "n", str, hint="independent seeds behind the scores"),
        _field("runs", "runs", str, 5),
        _field("failed", "failed", str, 2, "failed or unfinished runs"),
        _field("IQM", "iqm", score_text, 2, "interquartile mean; below 4 scores it is the mean"),
        _interval("IQM interval", "iqm_interval", 5),
        _field("std", "std", score_text, 1, "standard deviation over seeds"),
        _field("best", "best", score_text, 3),
        _field("worst", "worst", score_text, 3),
        _field("gap", "optimality_gap", score_text, 3, "optimality gap: mean shortfall from the target"),
        _field("first", "first_probability", _chance_of_first, 1, "chance of having the best true mean"),
        _field("gain", "gain", _signed, 1, "over the same runs before training (step 0)"),
        _interval("gain interval", "gain_interval", 3),
        _field("collapsed", "collapsed", significant, 4, "runs that failed, or ended worse than before training (or collapse=)"),
        _interval("P(collapse)", "collapse_interval", 5, "exact interval of the chance of that"),
        _field("area", "area_under_curve", score_text, 4, "mean height of the learning curve"),
        _field("noise", "evaluation_error", score_text, 5, "standard error over prompts within a run; runs share their prompts"),
        _field("KL", "kl", score_text, 2, "to the reference, nats per completion"),
        _field("steps", "steps", significant, 4),
        _field("tokens", "tokens", significant, 3, "sampled and trained, a run"),
        _field("time", "seconds", duration, 4, "a run"),
    ]
    always = {"rank", "variant", "seeds", "runs", "failed", "mean", "std"}
    kept = [c for c in columns if c.name in always or any(c.value(v) is not None for v in comparison.variants)]
    untrained = [comparison.untrained] if comparison.untrained is not None else []
    return Table("variants", kept, [*comparison.variants, *untrained])


def _chance_of_first(share: float | None) -> str:
    return percent(None if share is None else min(share, 0.999))


def pair_table(comparison: Comparison) -> Table:
    """One row per pair, with its verdict; indistinguishable variants have no row and are named in a sentence."""
    columns = [
        _words("a", "a", folds=True),
        _words("b", "b", folds=True),
        _field("a - b", "difference", _signed),
        Column(
            f"{level(comparison)} interval",
            lambda p: "-" if p.low != p.low else span(p.low, p.high),
            lambda p: p.low,
            hint="of the difference, not adjusted",
        ),
        Column(
            "verdict",
            lambda p: p.verdict,
            lambda p: p.verdict,
            is_text=True,
            hint="of a against b",
            style=lambda p: STYLES[p.verdict],
        ),
        _field("p", "p", probability, 3),
        _field("adjusted p", "p_adjusted", probability, 1, "Holm, over all pairs here"),
        _field("Hedges g", "effect_size", _signed, 2, "difference in standard deviations"),
        _interval("g interval", "effect_size_interval", 5),
        _field("P(a beats b)", "probability_of_improvement", percent, 2, "chance that a run of a beats one of b"),
        _interval("P interval", "probability_of_improvement_interval", 5),
        _field(
            "detectable",
            "minimum_detectable_difference",
            score_text,
            3,
            "smallest difference that these seeds detect with 80 % power",
        ),
        _field(
            "seeds needed", "seeds_needed", significant, 3, "each, to detect a difference as large as this one with 80 % power"
        ),
        _field("prompts needed", "prompts_needed", significant, 4, "with these seeds, for 80 % power"),
        _field("p on these prompts", "p_fixed", probability, 5, "over seeds alone"),
        *_component_columns(),
        _field("seed r", "seed_correlation", score_text, 5, "correlation of the scores of shared seeds"),
        _field("rank test p", "p_rank", probability, 7, "Mann-Whitney, not adjusted: for information, not used for the verdict"),
        _words("test", "test", 6),
    ]
    optional = {"rank test p", "prompts needed", "p on these prompts", "seed r", *(c.name for c in _component_columns())}
    kept = [c for c in columns if c.name not in optional or any(c.value(p) is not None for p in comparison.pairs)]
    return Table("pairs", kept, [group[0] for group in merged(comparison.pairs) if len(group) == 1])


def _component_columns() -> list[Column]:
    """Standard deviations of the variance components of the first task, the larger of both sides."""

    def column(name: str, of: Callable[[Any], float], hint: str) -> Column:
        def value(pair: Any) -> float | None:
            return float(of(pair.components[0]) ** 0.5) if pair.components else None

        def text(pair: Any) -> str:
            return score_text(value(pair))

        return Column(name, text, value, 5, hint=hint)

    return [
        column("between seeds", lambda part: max(part.seed), "standard deviation of a run's mean over all prompts"),
        column("between prompts", lambda part: part.interaction, "standard deviation over prompts of the difference a - b"),
        column("within", lambda part: max(part.residual), "standard deviation of an answer for a given seed and prompt"),
    ]


def run_table(comparison: Comparison) -> Table:
    """One row per run, for the first MOST_RUNS."""
    counted_as_worst = ", counted as worst" if comparison.choices.failed == "worst" else ""

    def state(run: RunScore) -> str:
        return run.state if run.state == "completed" else run.state + counted_as_worst

    columns = [
        _words("variant", "variant", folds=True),
        _words("task", "task"),
        _field("seed", "seed", str),
        Column("state", state, lambda r: r.state, is_text=True),
        _field("score", "score", score_text),
        _field("noise", "prompt_error", score_text, hint="standard error over prompts"),
        _field("KL", "kl", score_text),
        _field("steps", "step", significant),
        _field("tokens", "tokens", significant),
        _field("time", "seconds", duration),
        _words("run", "record.directory.name"),
    ]
    left = len(comparison.runs) - MOST_RUNS
    notes = [f"{quantity(left, 'more run')} are in runs.csv."] if left > 0 else []
    return Table("runs", columns, comparison.runs[:MOST_RUNS], notes=notes)


def config_table(comparison: Comparison) -> Table:
    """Config keys in which runs differ, with one column per variant."""
    labels = [variant.label for variant in comparison.variants]
    shown = labels[:MOST_CONFIG_COLUMNS]

    def column(label: str) -> Column:
        def text(row: tuple[str, Mapping[str, Sequence[Any]]]) -> str:
            return ", ".join(_config_value(value) for value in row[1].get(label, [])[:6]) or "-"

        return Column(label, text, text, is_text=True)

    first = Column("key", lambda row: row[0], lambda row: row[0], is_text=True)
    left = len(labels) - len(shown)
    notes = [f"The columns of {quantity(left, 'more variant')} are left out."] if left else []
    return Table("config-differences", [first, *map(column, shown)], list(comparison.config_differences.items()), notes=notes)


def _config_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def full_tables(values: Mapping[str, Any]) -> list[Table]:
    """Variants, pairs and runs with all fields of comparison.json at full precision, for CSV. values: its content."""
    return [table_of_mappings(name, [_flat(row) for row in values[name]]) for name in ("variants", "pairs", "runs")]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a row to one level: an interval as its ends, an error as type and message, a list as words."""
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


def run_title(run: RunScore) -> str:
    """A one-line title of a run."""
    return f"{run.variant}, {run.task}, seed {run.seed}: {run.state}, score {score_text(run.score)}"
