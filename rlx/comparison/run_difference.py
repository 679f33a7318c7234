"""The differences of two runs: configs, code, versions and machine, and the first step at which their metrics differ."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.comparison.serializable import Serializable
from rlx.errors import EvidenceError
from rlx.nested import leaves
from rlx.record.files import each_metrics
from rlx.record.run import RunRecord, find_run_directories, read_run

MISSING = "(not there)"
_TIMED = ("time/", "cost/peak_memory")  # metrics that differ even between equal runs
_PLACES = ("output_dir", "hydra")  # keys for output paths


@dataclass(frozen=True)
class Parting(Serializable):
    """Where the metrics of two runs first differ. step: of that line. values: metric -> (of a, of b) in that line."""

    step: int
    values: Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class RunDifference(Serializable):
    """a, b: the directories. config, code, versions, results: name -> (of a, of b), only where they differ.

    parting: None if all common lines agree bit for bit. lines: the number of lines that each logged.
    """

    a: str
    b: str
    config: Mapping[str, tuple[Any, Any]]
    code: Mapping[str, tuple[Any, Any]]
    versions: Mapping[str, tuple[Any, Any]]
    results: Mapping[str, tuple[Any, Any]]
    parting: Parting | None
    lines: tuple[int, int]


def compare_two(places: Sequence[str | os.PathLike[str]]) -> RunDifference:
    """The difference of the two runs at these places. Raises EvidenceError unless they hold exactly two runs."""
    found = list(dict.fromkeys(os.path.realpath(path) for place in places for path in find_run_directories(place)))
    if len(found) != 2:
        raise EvidenceError(
            f"diff=true compares two runs, and {', '.join(map(str, places)) or 'nothing'} holds {len(found)}; "
            "name the directories of two runs: rlx compare RUN RUN diff=true"
        )
    a, b = (read_run(path) for path in found)
    parting, lines = _parting(*(each_metrics(path) for path in found))
    return RunDifference(
        a=found[0],
        b=found[1],
        config=_differing(*(_settings(record) for record in (a, b))),
        code=_differing(_code(a), _code(b)),
        versions=_differing(_versions(a), _versions(b)),
        results=_differing(*(dict(run.result.performance_metrics) if run.result is not None else {} for run in (a, b))),
        parting=parting,
        lines=lines,
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    keys = dict.fromkeys([*a, *b])
    pairs = {key: (a.get(key, MISSING), b.get(key, MISSING)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


def _same(a: Any, b: Any) -> bool:
    """Equal, or both NaN."""
    return bool(a == b) or (a != a and b != b)


def _settings(record: RunRecord) -> dict[str, Any]:
    flat = leaves(record.config)
    return {key: value for key, value in flat.items() if key.split(".")[0] not in _PLACES}


def _code(record: RunRecord) -> dict[str, Any]:
    """rlx, the git commit, and the user's source files."""
    found = {f"rlx {key}": value for key, value in _mapping(record.provenance.get("rlx")).items()}
    found |= {f"git {key}": value for key, value in _mapping(record.provenance.get("git")).items()}
    for item in record.sources:
        if isinstance(item, Mapping):
            found[f"source {item.get('module', item.get('target'))}"] = item.get("sha256")
    return found


def _versions(record: RunRecord) -> dict[str, Any]:
    """Packages, machine, and data files."""
    names = ("python", "platform", "host", "cpu", "environment", "device", "data")
    known = {name: record.provenance[name] for name in names if name in record.provenance}
    return leaves({**_mapping(record.provenance.get("packages")), **known, "threads": record.threads})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parting(a: Iterable[Mapping[str, Any]], b: Iterable[Mapping[str, Any]]) -> tuple[Parting | None, tuple[int, int]]:
    """The first line in which two logs differ, among common steps, and the number of lines of each.

    The steps of a log increase, so both are read once, line by line.
    """
    left, right = _Log(a), _Log(b)
    parting = None
    while parting is None and left.row is not None and right.row is not None:
        step, other = left.row["step"], right.row["step"]
        if step == other:
            kept = [{key: value for key, value in row.items() if not key.startswith(_TIMED)} for row in (left.row, right.row)]
            differing = _differing(*kept)
            parting = Parting(int(step), differing) if differing else None
        if step <= other:
            left.advance()
        if other <= step:
            right.advance()
    return parting, (left.length(), right.length())


class _Log:
    """The lines of a log, read one by one. row: the current one, None at the end."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows: Iterator[Mapping[str, Any]] = iter(rows)
        self._count = 0
        self.advance()

    def advance(self) -> None:
        """Read the next line."""
        self.row = next(self._rows, None)
        self._count += self.row is not None

    def length(self) -> int:
        """The number of lines; reads the rest."""
        return self._count + sum(1 for _ in self._rows)
