"""Finds the runs to compare at or below paths and patterns, and reads their scores; names the records that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rlx.comparison.scores import RunScore, read_score
from rlx.errors import DataError, EvidenceError
from rlx.record.run import RunRecord, find_run_directories, read_run


@dataclass(frozen=True)
class Collected:
    """All runs that were found. unreadable: path -> reason. skipped: records of other verbs."""

    runs: tuple[RunScore, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0


Where = str | os.PathLike[str] | RunRecord


def collect(
    where: Where | Iterable[Where],
    *,
    metric: str,
    score: str,
    lower_is_better: bool = False,
    at: tuple[str, float] | None = None,
) -> Collected:
    """The runs at or below paths and patterns, or given as records; each directory once, oldest first."""
    places = [where] if isinstance(where, (str, os.PathLike, RunRecord)) else list(where)
    found: dict[str, RunRecord] = {}
    unreadable: dict[str, str] = {}
    for place in places:
        if isinstance(place, RunRecord):
            found.setdefault(os.path.realpath(place.directory), place)
            continue
        for directory in find_run_directories(place):
            key = os.path.realpath(directory)
            if key in found or key in unreadable:
                continue
            try:
                found[key] = read_run(directory)
            except DataError as error:
                unreadable[key] = str(error)
    if not found and not unreadable:
        named = ", ".join(os.fspath(place) for place in places if not isinstance(place, RunRecord)) or "nothing"
        raise EvidenceError(
            f"{named}: no run is there; train some with `rlx -m algorithm=a,b 'seed=range(0,5)'`, or see `rlx runs`"
        )
    runs = []
    trained = any(record.verb == "train" for record in found.values())
    verb = "train" if trained else "evaluate"  # evaluations repeat runs: they are compared where there is nothing else
    records = [(key, record) for key, record in found.items() if record.verb == verb]
    for key, record in sorted(records, key=lambda item: (item[1].started, item[0])):
        try:
            runs.append(read_score(record, metric=metric, score=score, lower_is_better=lower_is_better, at=at))
        except DataError as error:
            unreadable[key] = str(error)
    return Collected(tuple(runs), unreadable, len(found) - len(records))
