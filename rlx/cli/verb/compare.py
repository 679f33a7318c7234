"""Compares runs over seeds: verdicts, tables, comparison.json and one page, from run records."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, OmegaConf

from rlx import __version__
from rlx.comparison.choices import FEWEST, Choices
from rlx.comparison.comparison import Comparison, compare_runs
from rlx.comparison.grouping import find_label
from rlx.config.compose import Composed
from rlx.errors import ConfigError, EvidenceError
from rlx.fields import texts_of

WORDS = "runs"


@dataclass
class CompareConfig:
    """Config of rlx compare; the ranges of most keys are those of `Choices`."""

    runs: Any = MISSING
    where: str | None = MISSING
    by: Any = MISSING
    baseline: str | None = MISSING
    metric: str = MISSING
    lower_is_better: bool | None = MISSING
    score: str = MISSING
    at: str | None = MISSING
    prompts: str = MISSING
    question: str = MISSING
    paired: bool = MISSING
    margin: float | None = MISSING
    failed: str = MISSING
    collapse: float | None = MISSING
    allow: Any = MISSING
    level: float = MISSING
    target: float = MISSING
    num_resamples: int = MISSING
    diff: bool = MISSING
    columns: Any = MISSING
    fail_if: str | None = MISSING
    out: str | None = MISSING
    write: bool = MISSING
    page: bool = MISSING
    figures: bool = MISSING


SCHEMA = CompareConfig
NO_SWEEP = "several runs or sweeps are words, rlx compare A B"


def run(composed: Composed) -> int:
    """Prints the comparison and writes its files; 1 if the verdict of `fail_if` holds."""
    config = OmegaConf.to_container(composed.config, resolve=True)
    assert isinstance(config, dict)
    values = {str(key): value for key, value in config.items()}
    runs = texts_of("runs", values["runs"])
    if not runs:
        raise ConfigError("runs is empty: name runs, sweeps, folders or patterns, rlx compare A B")
    if values["diff"]:
        return _print_difference(runs)
    comparison = compare_runs(runs, Choices.of(values), command=list(composed.command))
    failed = failing_verdict(values["fail_if"], comparison) if values["fail_if"] is not None else None

    from rlx.report.comparison import chosen_columns, print_comparison
    from rlx.report.files import place_beside, write_files

    columns = chosen_columns(comparison, values["columns"])
    files: list[Path] = []
    if values["write"]:
        place = Path(values["out"]) if values["out"] is not None else place_beside(comparison)
        files = write_files(
            comparison, place, page=values["page"], figures=values["figures"], version=__version__, columns=columns
        )
    print_comparison(comparison, files=files, columns=columns)
    if failed is not None:
        print(f"rlx: fail_if={values['fail_if']!r} holds: {failed}", file=sys.stderr)
        return 1
    return 0


def _print_difference(runs: list[str]) -> int:
    """Print how two runs differ."""
    from rlx.comparison.run_difference import compare_two
    from rlx.report.comparison import difference_lines

    difference = compare_two(runs)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(difference_lines(difference, width=width)))
    return 0


# `fail_if`: a condition on a verdict that fails a build, such as "hybrid < custom_dpo".


MEANING = {"<": "worse", ">": "better", "==": "equivalent"}


def failing_verdict(condition: str, comparison: Comparison) -> str | None:
    """The sentence of the pair if its verdict is the one that the condition names, else None. Refused below 5 seeds.

    `a < b`: a is worse than b. `a > b`: a is better. `a == b`: they are equivalent within the margin.
    """
    sign = next((sign for sign in ("==", "<", ">") if f" {sign} " in condition or condition.count(sign) == 1), None)
    if sign is None or condition.count(sign) != 1 or _is_other_sign(condition, sign):
        raise ConfigError(
            f"fail_if={condition!r}: write 'a < b' (a worse than b), 'a > b' or 'a == b', with the labels of two variants"
        )
    names = [part.strip() for part in condition.split(sign)]
    labels = [variant.label for variant in comparison.variants]
    if not all(names):
        raise ConfigError(f"fail_if={condition!r}: a variant's label must stand on both sides of {sign}: {'; '.join(labels)}")
    a, b = (find_label(name, labels, key="fail_if") for name in names)
    if a == b:
        raise ConfigError(f"fail_if={condition!r}: both sides are {a}")
    if sign == "==" and comparison.choices.margin is None:
        raise ConfigError(f"fail_if={condition!r}: equivalence needs a margin, such as margin=0.02")
    pair = comparison.pair(a, b)
    least = min(pair.n_a, pair.n_b)
    if least < FEWEST:
        few = "1 seed carries" if least == 1 else f"{least} seeds carry"
        raise EvidenceError(f"fail_if={condition!r}: {few} no verdict; run at least {FEWEST} of {a} and of {b}")
    return pair.words if pair.verdict == MEANING[sign] else None


def _is_other_sign(condition: str, sign: str) -> bool:
    """Whether the sign is part of a longer one without a meaning here: <=, =>, ->."""
    before, _, after = condition.partition(sign)
    return before.endswith(("=", "!", "-", "<", ">")) or after.startswith(("=", "-", "<", ">"))
