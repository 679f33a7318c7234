"""The files of a comparison: comparison.json, tables, the page and the figures, each written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rlx.comparison.comparison import Comparison
from rlx.record.files import write_atomic
from rlx.report.tables import csv_tables, latex, markdown


def place_beside(comparison: Comparison) -> Path:
    """The directory that holds all runs; the working directory where they have nothing in common."""
    parents = [os.path.realpath(run.record.directory.parent) for run in comparison.runs]
    try:
        shared = Path(os.path.commonpath(parents))
    except ValueError:  # on different drives
        return Path.cwd()
    return Path.cwd() if shared in (Path(shared.anchor), Path.home()) else shared


def write_files(comparison: Comparison, directory: Path, *, page: bool, figures: bool) -> list[Path]:
    """Writes everything and returns the paths that people open first."""
    from rlx.record.files import full_disk_explained

    with full_disk_explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False, ensure_ascii=True)
        write_atomic(directory / "comparison.json", text + "\n")
        for name, content in csv_tables(comparison).items():
            write_atomic(directory / name, content)
        write_atomic(directory / "comparison.tex", latex(comparison))
        write_atomic(directory / "comparison.md", markdown(comparison))
        written = [directory / "comparison.json", directory / "comparison.md"]
        if figures:
            from rlx.report.figures import write_figures

            written += write_figures(comparison, directory / "figures")[:1]
        if page:
            from rlx.report.html import render_page

            write_atomic(directory / "report.html", render_page(comparison))
            written.append(directory / "report.html")
    return written
