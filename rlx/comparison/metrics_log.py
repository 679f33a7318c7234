"""The metrics of a run that a comparison needs, read line by line."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from operator import eq
from typing import Any

import numpy as np

from rlx.comparison.serializable import is_number, usable
from rlx.comparison.statistics.interval import Array
from rlx.record.files import each_metrics
from rlx.record.run import RunRecord

KL = "eval/kl"
PROBABILITY_SCORES = ("eval/accuracy", "eval/pair_accuracy")


@dataclass(frozen=True)
class MetricsLog:
    """The parts of a run's metrics that the comparison needs, of constant size for any number of lines.

    curve: step -> value of the metric. evaluations: the facts needed from the lines with the metric. spent: after each logged
    step, unit -> steps [K], amounts [K]; seconds count only drawing and updating. fingerprint: equal for runs whose metrics
    agree in everything except times. names: of all metrics.
    """

    curve: dict[int, float]
    evaluations: list[dict[str, Any]]
    spent: dict[str, tuple[Array, Array]]
    fingerprint: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Names:
    """The metric names of a line. compared: names in which two runs must agree. tokens, clocks: the costs of a step."""

    compared: tuple[str, ...]
    tokens: tuple[str, ...]
    clocks: tuple[str, ...]

    @staticmethod
    def of(line: tuple[str, ...]) -> _Names:
        """Classify the names of a line."""
        return _Names(
            tuple(sorted(name for name in line if name[:5] not in ("time/", "cost/"))),
            tuple(name for name in ("cost/tokens_sampled", "cost/tokens_trained") if name in line),
            tuple(name for name in ("time/draw_seconds", "time/update_seconds") if name in line),
        )


def read_log(record: RunRecord, metric: str) -> MetricsLog:
    """Read the metrics of a run line by line."""
    asked = {"step", metric, f"{metric}_standard_error", f"{metric}_se", KL, "time/evaluation_seconds", *PROBABILITY_SCORES}
    curve: dict[int, float] = {}
    evaluations: list[dict[str, Any]] = []
    kinds: dict[tuple[str, ...], _Names] = {}
    steps, tokens, seconds = array("q"), array("d"), array("d")
    clock, fingerprint = 0.0, 0
    for row in each_metrics(record.directory):
        line = tuple(row)
        names = kinds.get(line) or kinds.setdefault(line, _Names.of(line))
        fingerprint = hash((fingerprint, _fingerprint(row, names.compared)))
        if metric in row:
            evaluations.append({name: row[name] for name in asked if name in row})
        if not is_number(row["step"]):
            continue
        if is_number(row.get(metric)):
            curve[int(row["step"])] = usable(row[metric])
        counted = [row[name] for name in names.tokens if is_number(row[name])]
        clock += sum([float(row[name]) for name in names.clocks if is_number(row[name])])
        steps.append(int(row["step"]))
        tokens.append(float(sum(counted)) if counted else tokens[-1] if tokens else 0.0)
        seconds.append(clock)
    at = np.array(steps)
    spent = {"tokens": (at, np.array(tokens)), "seconds": (at, np.array(seconds))}
    logged = dict.fromkeys(name for line in kinds for name in line if name != "step")
    return MetricsLog(curve, evaluations, spent, fingerprint, tuple(logged))


def _fingerprint(row: Mapping[str, Any], names: tuple[str, ...]) -> int:
    """A hash that is equal for lines that agree in these names and values. NaN and unhashable values are hashed as text."""
    values = tuple([row[name] for name in names])
    if not all(map(eq, values, values)):
        values = tuple([value if value == value else repr(value) for value in values])
    try:
        return hash((names, values))
    except TypeError:  # a list or an object
        return hash((names, repr(values)))
