"""Lists runs and sweeps, their state and score; filters by any key of their configs."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from rlx.fields import one_of, texts_of, within
from rlx.record.files import follow_latest, full_disk_explained, write_atomic
from rlx.record.listing import Listed, listed
from rlx.record.query import keep, resolve
from rlx.record.run import STATUSES, find_run_directories, read_plan
from rlx.report.table import as_csv, as_json, as_plain_text, show_run_value, table_of_lists

if TYPE_CHECKING:
    from rlx.config.compose import Composed

WORDS = "paths"


@dataclass
class RunsConfig:
    """Config of rlx runs."""

    paths: Any = MISSING
    where: str | None = MISSING
    sort: str = MISSING
    columns: Any = MISSING
    limit: int | None = within(at_least=0, whole=True, optional=True, default=MISSING)
    format: str = one_of(("table", "csv", "json"), default=MISSING)
    out: str | None = MISSING
    output_dir: str = MISSING


SCHEMA = RunsConfig
_COLUMNS = ("run", "state", "variant", "seed", "score", "steps", "age")
_CSV = ("run", "state", "algorithm", "variant", "task", "seed", "score", "steps", "started", "time", "config_hash")


def run(composed: Composed) -> int:
    """Print the list, or write it to a file; returns the exit code."""
    cfg = composed.config
    paths = texts_of("paths", cfg.paths)
    found = find(paths, output_dir=Path(str(cfg.output_dir)))
    known = list(dict.fromkeys([*_COLUMNS, *_CSV, *(key for item in found for key in item.facts)]))
    kept = ordered(keep(found, _text(cfg.where), facts=lambda item: item.facts), str(cfg.sort), known)
    columns = [resolve(name, known, what="columns") for name in texts_of("columns", cfg.columns)]
    shown = kept if cfg.limit is None else kept[: cfg.limit]
    is_terminal = cfg.out is None and sys.stdout.isatty()
    text = rendered(shown, columns, form=cfg.format, is_terminal=is_terminal)
    if cfg.format == "table":
        named = {item.directory.parent for item in shown if item.sweep is not None}
        plans = sweeps([item for item in found if item.directory.parent in named])
        text = "\n".join(filter(None, [_table(_SWEEP, plans, is_terminal=is_terminal), text]))
    if cfg.out is not None:
        with full_disk_explained(Path(cfg.out), key="out=FILE"):
            write_atomic(Path(cfg.out), text)
    else:
        sys.stdout.write(text)
    if cfg.format == "table" or cfg.out is not None:
        print_left_out(found, shown, place=", ".join(paths) or str(cfg.output_dir))
    return 0


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def find(paths: Sequence[str], *, output_dir: Path) -> list[Listed]:
    """Every run at or below the paths, each once; all of output_dir when there are none."""
    if not paths and not output_dir.exists():
        return []
    directories = {os.path.realpath(place): place for path in paths or [str(output_dir)] for place in find_run_directories(path)}
    now = time.time()
    return [listed(Path(directory), now=now) for directory in directories]


def ordered(items: Sequence[Listed], sort: str, known: Sequence[str]) -> list[Listed]:
    """The runs sorted by a key; runs without a value come last in either order."""
    descending, key = sort.startswith("-"), resolve(sort.lstrip("-+"), known, what="sort")

    def value(item: Listed) -> tuple[bool, Any]:
        found = item.facts[key]
        is_number = isinstance(found, (int, float))
        return (not is_number, found if is_number else str(found))

    def has(item: Listed) -> bool:
        found = item.facts.get(key)
        return found is not None and found == found

    named = sorted(items, key=lambda item: item.name)
    return sorted(filter(has, named), key=value, reverse=descending) + [item for item in named if not has(item)]


def rendered(items: Sequence[Listed], columns: Sequence[str], *, form: str, is_terminal: bool) -> str:
    """The list in the chosen format."""
    if form == "json":
        return as_json([_object(item) for item in items])
    names = [*dict.fromkeys([*(_CSV if form == "csv" else _COLUMNS), *columns])]
    if form == "csv":
        return as_csv(table_of_lists("runs", names, [[item.facts.get(name) for name in names] for item in items]))
    return _table(names, [[_shown(item, name) for name in names] for item in items], is_terminal=is_terminal)


def _table(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, is_terminal: bool) -> str:
    width = shutil.get_terminal_size().columns if is_terminal else None
    table = table_of_lists("runs", headings, rows, show=show_run_value)
    return as_plain_text(table, width=width, encoding=sys.stdout.encoding or "utf-8") + "\n" if rows else ""


def _shown(item: Listed, name: str) -> Any:
    if name == "steps" and item.step is not None and item.num_steps is not None:
        return f"{item.step}/{item.num_steps}"
    return item.facts.get(name)


def _object(item: Listed) -> dict[str, Any]:
    facts = {name: item.facts.get(name) for name in (*_CSV, "ended", "sweep", "error", "id")}
    metrics = {name: value for name, value in item.last.items() if "/" in name}
    config = item.record.config if item.record is not None else None
    overrides = item.record.overrides if item.record is not None else None
    return {**facts, "directory": os.path.abspath(item.directory), "metrics": metrics, "overrides": overrides, "config": config}


_SWEEP = ("sweep", "jobs", *STATUSES[1:], "pruned", "running", "damaged", "best", "age")


def sweeps(items: Sequence[Listed]) -> list[list[Any]]:
    """A line for each sweep among the runs: the number of planned jobs, their states, the best score."""
    groups: dict[Path, list[Listed]] = {}
    for item in items:
        if item.sweep is not None:
            groups.setdefault(item.directory.parent, []).append(item)
    lines = []
    for directory, jobs in groups.items():
        states = Counter(job.state for job in jobs)
        scores = [job.score for job in jobs if job.score is not None and job.score == job.score]
        ages = [job.age for job in jobs if job.age is not None]
        planned = (read_plan(directory) or {}).get("jobs") or jobs
        counts = [len(planned), *(states[name] for name in _SWEEP[2:-2])]
        lines.append([directory.name, *counts, max(scores, default=None), max(ages, default=None)])
    return lines


def print_left_out(found: Sequence[Listed], shown: Sequence[Listed], *, place: str) -> None:
    """Print on stderr what is left out or cannot be read, so that a short list is not taken for the whole."""
    if not found:
        print(f"no runs under {follow_latest(Path(place))}; `rlx train` makes the first", file=sys.stderr)
    elif len(shown) < len(found):
        print(f"{len(shown)} of {len(found)} runs", file=sys.stderr)
    scales = Counter((item.scored_by, item.record.task) for item in shown if item.record is not None and item.scored_by)
    if len(scales) > 1:
        told = ", ".join(f"{figure} on {task} ({count} run{'s' * (count > 1)})" for (figure, task), count in scales.most_common())
        figure, task = scales.most_common(1)[0][0]
        print(
            f"these scores are not on one scale: {told}; rlx runs where='scored_by={figure} and task={task}' shows only those",
            file=sys.stderr,
        )
    for item in found:
        if item.record is None:
            print(f"damaged: {item.reason}", file=sys.stderr)
