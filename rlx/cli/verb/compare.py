"""Compares runs over seeds: verdicts, tables, comparison.json and one page, from run records."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from omegaconf import OmegaConf

from rlx import __version__
from rlx.comparison.choices import Choices, require_flag
from rlx.comparison.comparison import compare_runs
from rlx.comparison.condition import failing_verdict
from rlx.config.compose import Composed

WORDS = "runs"
NO_SWEEP = "several runs or sweeps are words, rlx compare A B"


def run(composed: Composed) -> int:
    """Prints the comparison and writes its files; 1 if the verdict of `fail_if` holds."""
    config = OmegaConf.to_container(composed.config, resolve=True)
    assert isinstance(config, dict)
    values = {str(key): value for key, value in config.items()}
    for name in ("write", "page", "figures", "diff"):
        require_flag(name, values[name])
    runs = [values["runs"]] if isinstance(values["runs"], str) else list(values["runs"])
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
    """Prints what tells two runs apart."""
    from rlx.comparison.run_difference import compare_two
    from rlx.report.run_difference import difference_lines

    difference = compare_two(runs)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join(difference_lines(difference, width=width)))
    return 0
