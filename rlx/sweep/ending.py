"""What is written and said when a sweep ends or is stopped, and its exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rlx.errors import RlxError
from rlx.report.sweep import print_failures
from rlx.sweep.again import resume_command
from rlx.sweep.best import write_best
from rlx.sweep.runner import EXIT_CODES
from rlx.sweep.settings import Settings
from rlx.sweep.state import COMPLETED, ENDED, FAILED, SweepState, best, now

if TYPE_CHECKING:
    from rlx.sweep.search import Search

FAILED_JOBS = 3
_ALLOWED = ["single", "tasks", "missing", "budget", "unfinished", "damaged"]  # a sweep shows what it has


def end(
    state: SweepState, settings: Settings, asked: int | None, *, is_group: Callable[[str], bool], search: Search | None = None
) -> int:
    """Write the last sweep.json and best.yaml, print how it went and how to go on; returns the exit code."""
    counts = state.counts()
    unfinished = len(state.jobs) - sum(counts[name] for name in ENDED)
    state.facts |= {"status": "interrupted" if unfinished or asked else FAILED if counts[FAILED] else COMPLETED, "ended": now()}
    place = os.path.relpath(state.directory)
    if search is not None:
        from rlx.sweep.closing import best_of_search, say_closing

        state.winner = best_of_search(search)
        if asked is None:
            say_closing(search, state.winner, Path(place))
    else:
        state.winner = best(list(state.jobs.values()))
        if settings.compare and counts[COMPLETED] > 1 and asked is None:
            print_comparison_of(place)
    state.write(force=True)
    if state.winner is not None and not unfinished:
        write_best(state.directory, state.winner, place=place, command=state.facts["command"], is_group=is_group)
    print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}; the sweep is in {place}", flush=True)
    print_failures(list(state.jobs.values()), place=place)
    if unfinished or counts[FAILED] or asked is not None:
        again = resume_command(place, state.facts["command"])
        print(f"go on with what is not completed: {again} (or the same command again)", file=sys.stderr, flush=True)
    if asked is not None:
        return EXIT_CODES[asked]  # type: ignore[index]
    return FAILED_JOBS if unfinished or counts[FAILED] else 0


def print_comparison_of(directory: str) -> None:
    """The comparison of the sweep's variants, as `rlx compare` prints it; a sweep that cannot be compared says why."""
    from rlx.compare.choices import Choices
    from rlx.compare.comparison import compare_runs
    from rlx.config import conf_dir
    from rlx.config.compose import read_yaml
    from rlx.report.comparison import print_comparison

    values = read_yaml(conf_dir() / "compare.yaml")
    choices = {str(key): values[key] for key in values if key not in ("defaults", "hydra")} | {"allow": _ALLOWED}
    try:
        comparison = compare_runs([directory], Choices.of(choices), command=["rlx", "compare", directory])
        print()
        print_comparison(comparison)
    except RlxError as error:
        print(f"no comparison: {error}", file=sys.stderr)
