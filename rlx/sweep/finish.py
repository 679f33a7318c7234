"""The end of a sweep: best.yaml, the comparison, the list of failures, and the exit code."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString

from rlx.comparison.wording import quantity
from rlx.errors import STOP_SIGNALS, ExitCode, RlxError
from rlx.record.directory import utc_now
from rlx.record.files import write_atomic
from rlx.record.trust import search_path
from rlx.report.sweep import print_failures
from rlx.report.text import one_line
from rlx.sweep.plan.settings import Settings
from rlx.sweep.resume import resume_command, trusted_in
from rlx.sweep.state import COMPLETED, ENDED, FAILED, SCORE, SweepState, best

if TYPE_CHECKING:
    from rlx.sweep.search.search import Search


_HEAD = """\
# @package _global_
# The best variant of the sweep in {place}: {variant}, {score} over {seeds}.
#     {command}
"""


def write_best(
    directory: Path, best: dict[str, Any], *, place: str, command: Sequence[str], is_group: Callable[[str], bool]
) -> Path:
    """Write the best variant's overrides as an experiment: best.yaml, and experiment/best.yaml for --config-dir.

    command: of the sweep, which may name folders of configs. is_group: whether a key names a group. Returns experiment/best.yaml.
    """
    name = best.get("objective", SCORE)
    score = f"{'score' if name == SCORE else name} {best['score']:.6g}"
    folders = search_path(command)
    usage = shlex.join(["rlx", "train", "--config-dir", place, *filter(None, [folders]), "experiment=best"])
    head = _HEAD.format(
        command=usage, place=place, variant=one_line(best["variant"]), score=score, seeds=quantity(len(best["scores"]), "seed")
    )
    text = head + yaml.safe_dump(experiment_of(best["overrides"], is_group), sort_keys=False, allow_unicode=True, width=10_000)
    experiment = directory / "experiment" / "best.yaml"
    experiment.parent.mkdir(exist_ok=True)
    write_atomic(experiment, text)
    write_atomic(directory / "best.yaml", text)
    return experiment


def experiment_of(overrides: Sequence[str], is_group: Callable[[str], bool]) -> dict[str, Any]:
    """Overrides as the content of a YAML file: choices of groups in its defaults list, values below."""
    added: list[Any] = []
    replaced: list[Any] = []
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = str(override.key_or_group)
        if override.package is None and not is_group(key):
            _put(values, key.split("."), _value(override))
        elif key == "experiment":
            added.insert(0, _value(override))  # a file next to this one
        else:
            package = f"@{override.package}" if override.package is not None else ""
            choices, word = (added, "") if override.is_add() else (replaced, "override ")
            choices.append({f"{word}/{key}{package}": _value(override)})
    return {"defaults": [*added, *replaced], **values} if added or replaced else values  # Hydra wants them in this order


def _value(override: Override) -> Any:
    value = override.value()
    return value.text if isinstance(value, QuotedString) else value


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def finish_sweep(
    state: SweepState,
    settings: Settings,
    stop_signal: int | None,
    *,
    is_group: Callable[[str], bool],
    search: Search | None = None,
) -> int:
    """Write sweep.json and best.yaml, print the outcome of the jobs and how to resume; returns the exit code.

    stop_signal: the signal that stopped the sweep, or None.
    """
    counts = state.counts()
    unfinished = len(state.jobs) - sum(counts[name] for name in ENDED)
    state.facts |= {
        "status": "interrupted" if unfinished or stop_signal else FAILED if counts[FAILED] else COMPLETED,
        "ended": utc_now(),
    }
    place = os.path.relpath(state.directory)
    if search is not None:
        from rlx.sweep.search.search import best_of_search, print_outcome

        state.winner = best_of_search(search)
    else:
        state.winner = best(list(state.jobs.values()))
    state.write(force=True)
    if state.winner is not None and not unfinished:
        write_best(state.directory, state.winner, place=place, command=state.facts["command"], is_group=is_group)
    if search is not None and stop_signal is None:
        print_outcome(search, state.winner, Path(place))
    elif settings.compare and counts[COMPLETED] > 1 and stop_signal is None and not state.is_doubtful:
        print_comparison_of(place)
    print(f"\n{', '.join(f'{count} {name}' for name, count in counts.items())}; the sweep is in {place}", flush=True)
    print_failures(list(state.jobs.values()), place=place)
    if unfinished or counts[FAILED] or stop_signal is not None:
        print_how_to_go_on(state, more=None if search is None or stop_signal is not None else search.trials_in_place_of_failed())
    if stop_signal is not None:
        return STOP_SIGNALS[signal.Signals(stop_signal)]
    return ExitCode.SWEEP_FAILED if unfinished or counts[FAILED] else ExitCode.OK


def print_how_to_go_on(state: SweepState, more: int | None = None) -> None:
    """Print the command that resumes the sweep. more: for a search with failed trials, the number of trials to ask for."""
    trusted = trusted_in(state.facts, state.directory)
    further = [] if more is None else [f"sweep.trials={more}"]
    go_on = resume_command(os.path.relpath(state.directory), state.facts, trusted, *further)
    said = f"to run the jobs that are not completed: {go_on} (or the same command again)"
    if more is not None:
        said = f"failed trials are not rerun; to run replacements: {go_on}"
    print(said, file=sys.stderr, flush=True)


def print_comparison_of(directory: str) -> None:
    """Print the comparison of the sweep's variants as `rlx compare` does, or the reason why they cannot be compared."""
    from rlx.comparison.choices import ALLOWED, Choices
    from rlx.comparison.comparison import compare_runs
    from rlx.report.comparison import print_comparison

    try:
        choices = Choices.declared(allow=list(ALLOWED))
        comparison = compare_runs([directory], choices, command=["rlx", "compare", directory])
        print()
        print_comparison(comparison)
    except RlxError as error:
        print(f"no comparison: {error}", file=sys.stderr)
