"""How much each swept key matters: the share of the variation of scores that it explains, and how far it moves the mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.comparison.grouping import compared, short_names, swept_keys
from rlx.comparison.numbers import is_number
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.interval import Array

_MOST_LEVELS = 8  # a number with more values than this was sampled: its range is cut into quarters


@dataclass(frozen=True)
class KeyImportance(Serializable):
    """A swept key of an algorithm.

    share: of the variance of the scores of all runs, that the key explains by itself (omega squared, 0 to 1): what is left is
    owed to other keys, to interactions and to seeds. sensitivity: highest minus lowest mean score over its values, or over the
    quarters of its range. levels: how many means that is among. runs: how many scores.
    """

    algorithm: str
    key: str
    name: str
    share: float
    sensitivity: float
    levels: int
    runs: int


def importances(counted: Sequence[RunScore]) -> list[KeyImportance]:
    """For each algorithm with two or more swept keys, its keys, the one that explains most first."""
    found = []
    for algorithm in dict.fromkeys(run.record.algorithm for run in counted):
        mine = [run for run in counted if run.record.algorithm == algorithm and run.score is not None]
        configs = [compared(run.config) for run in mine]
        keys = swept_keys(configs, (text for run in mine for text in run.record.overrides)) if mine else []
        if len(keys) < 2:
            continue
        names, scores = short_names(keys), np.array([run.score for run in mine], float)
        rows = []
        for key in keys:
            groups = _groups([config[key] for config in configs], scores)
            means = [float(group.mean()) for group in groups]
            share = _omega_squared(groups)
            rows.append(KeyImportance(algorithm, key, names[key], share, max(means) - min(means), len(groups), len(scores)))
        found += sorted(rows, key=lambda row: -row.share)
    return found


def _groups(values: Sequence[Any], scores: Array) -> list[Array]:
    """Scores by the value of a key; by quarters of its range where it took many numbers."""
    kinds: Mapping[str, Any] = {repr(value): value for value in values}
    if len(kinds) > _MOST_LEVELS and all(is_number(value) for value in kinds.values()):
        edges = np.quantile(np.array(values, float), (0.25, 0.5, 0.75))
        places = np.searchsorted(edges, np.array(values, float))
        return [scores[places == place] for place in np.unique(places)]
    return [scores[[repr(value) == kind for value in values]] for kind in kinds]


def _omega_squared(groups: Sequence[Array]) -> float:
    """The share of variance between groups, without what chance alone puts there; 0 where nothing varies.

    Hays, Statistics for Psychologists (1963): (SS_between - (k - 1) MS_within) / (SS_total + MS_within).
    """
    everything = np.concatenate(groups)
    total = float(((everything - everything.mean()) ** 2).sum())
    within = float(sum(((group - group.mean()) ** 2).sum() for group in groups))
    freedom = len(everything) - len(groups)
    if total == 0 or freedom <= 0:
        return 0.0
    noise = within / freedom
    return max(0.0, (total - within - (len(groups) - 1) * noise) / (total + noise))
