"""The files of a comparison: comparison.json, tables, the page and the figures, each written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from rlx.comparison.comparison import Comparison
from rlx.record.files import write_atomic
from rlx.report.columns import full_tables
from rlx.report.comparison import latex, markdown
from rlx.report.table import as_csv


def place_beside(comparison: Comparison) -> Path:
    """The directory that contains all runs; the working directory if they have no common parent."""
    parents = [os.path.realpath(run.record.directory.parent) for run in comparison.runs]
    try:
        shared = Path(os.path.commonpath(parents))
    except ValueError:  # on different drives
        return Path.cwd()
    return Path.cwd() if shared in (Path(shared.anchor), Path.home()) else shared


def write_files(
    comparison: Comparison, directory: Path, *, page: bool, figures: bool, version: str, columns: Sequence[str] = ()
) -> list[Path]:
    """Write all files and return the most important paths. version: of rlx, for the page; columns: of the tables."""
    from rlx.record.files import full_disk_explained

    with full_disk_explained(directory, key="out=DIR"):
        directory.mkdir(parents=True, exist_ok=True)
        values = comparison.to_dict()
        text = json.dumps(values, indent=1, allow_nan=False, ensure_ascii=True)
        write_atomic(directory / "comparison.json", text + "\n")
        for table in full_tables(values):
            write_atomic(directory / f"{table.name}.csv", as_csv(table))
        write_atomic(directory / "comparison.tex", latex(comparison, columns))
        write_atomic(directory / "comparison.md", markdown(comparison, columns))
        written = [directory / "comparison.json", directory / "comparison.md"]
        if figures:
            from rlx.report.figure.paper import write_figures
            from rlx.report.html import all_figures

            printed = [figure for figure in all_figures(comparison) if figure.is_printed]
            written += write_figures(printed, directory / "figures")[:1]
        if page:
            from rlx.report.html import render_page

            write_atomic(directory / "report.html", render_page(comparison, version=version))
            written.append(directory / "report.html")
    return written
