"""Prompts that one variant wins against another, and those that it loses, with what both said. P prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.interval import Array
from rlx.errors import DataError
from rlx.record.lines import read_samples


@dataclass(frozen=True)
class PromptResult(Serializable):
    """One held-out prompt. place: among them, from 0. score_a, score_b: means over seeds. prompt, completion_a, completion_b: as
    the runs kept them (evaluation.num_shown prompts of each evaluation), None where they did not."""

    place: int
    score_a: float
    score_b: float
    prompt: Any = None
    completion_a: Any = None
    completion_b: Any = None

    @property
    def difference(self) -> float:
        """Of a against b."""
        return self.score_a - self.score_b


@dataclass(frozen=True)
class PromptContest(Serializable):
    """a against b. won, lost, tied: numbers of prompts. told: those with the completions of both, the most won first."""

    a: str
    b: str
    won: int
    lost: int
    tied: int
    told: tuple[PromptResult, ...]


def contest(a: str, b: str, counted: Sequence[RunScore], *, lower_is_better: bool = False) -> PromptContest | None:
    """What variant a wins and loses against b over the same prompts; None where answers are missing or are not of one set."""
    sides = [_mean_answers(label, counted) for label in (a, b)]
    if sides[0] is None or sides[1] is None or len(sides[0]) != len(sides[1]):
        return None
    difference = (sides[1] - sides[0]) if lower_is_better else (sides[0] - sides[1])
    kept = [_kept(label, counted) for label in (a, b)]
    told = []
    for place, (ours, theirs) in enumerate(zip(*kept, strict=False)):
        if place < len(difference) and ours.get("prompt") == theirs.get("prompt"):
            scores = float(sides[0][place]), float(sides[1][place])
            told.append(PromptResult(place, *scores, ours.get("prompt"), ours.get("completion"), theirs.get("completion")))
    told.sort(key=lambda result: float(difference[result.place]), reverse=True)
    won, lost = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return PromptContest(a, b, won, lost, len(difference) - won - lost, tuple(told))


def _mean_answers(label: str, counted: Sequence[RunScore]) -> Array | None:
    """Scores of the prompts [P], means over the runs of a variant on its one task."""
    mine = [run for run in counted if run.variant == label and not run.imputed]
    answers = [run.answers for run in mine if run.answers is not None]
    if not answers or len(answers) < len(mine) or len({len(one) for one in answers}) > 1 or len({run.task for run in mine}) > 1:
        return None
    return np.asarray(np.mean(answers, axis=0))


def _kept(label: str, counted: Sequence[RunScore]) -> list[Mapping[str, Any]]:
    """The samples of the last evaluation of the lowest seed that kept any: the first held-out prompts, in their order."""
    for run in sorted((run for run in counted if run.variant == label), key=lambda run: run.seed):
        try:
            rows = [row for row in read_samples(run.record.directory) if "completion" in row]
        except DataError:
            continue
        last = max((row["step"] for row in rows), default=0)
        if rows:
            return [row for row in rows if row["step"] == last]
    return []
