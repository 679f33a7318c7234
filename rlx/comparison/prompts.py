"""Prompts that one variant wins against another, and those that it loses, with what both said. P prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.comparison.scores import RunScore, same_prompts
from rlx.comparison.serializable import Serializable, usable_or_none
from rlx.comparison.statistics.interval import Array
from rlx.errors import DataError
from rlx.record.lines import read_completions, read_samples


@dataclass(frozen=True)
class Said(Serializable):
    """A completion of one run at its last evaluation. score: what it counted in the score there; None: not recorded."""

    completion: Any
    seed: int
    step: int
    score: float | None


@dataclass(frozen=True)
class PromptResult(Serializable):
    """One held-out prompt or pair. place: among them, from 0. score_a, score_b: means over seeds. said_a, said_b: what one run
    of each said to it."""

    place: int
    score_a: float
    score_b: float
    prompt: Any
    said_a: Said
    said_b: Said

    @property
    def difference(self) -> float:
        """Return the difference of the scores, a minus b."""
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
    if not same_prompts(run for run in counted if run.variant in (a, b)):
        return None
    difference = (sides[1] - sides[0]) if lower_is_better else (sides[0] - sides[1])
    kept = [_kept(label, counted) for label in (a, b)]
    told = []
    for place, ((prompt, ours), (other, theirs)) in enumerate(zip(*kept, strict=False)):
        if place < len(difference) and prompt == other:
            told.append(PromptResult(place, float(sides[0][place]), float(sides[1][place]), prompt, ours, theirs))
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


def _kept(label: str, counted: Sequence[RunScore]) -> list[tuple[Any, Said]]:
    """Prompts and what was said to them at the last evaluation, by the lowest seed that kept it, in the order of the answers.

    A record of before kept the completions of the first prompts alone, among its samples; of a task of pairs they are left out,
    since it does not tell which pairs a prompt belongs to.
    """
    for run in sorted((run for run in counted if run.variant == label), key=lambda run: run.seed):
        try:
            rows = read_completions(run.record.directory)
            if not rows:
                rows = [row for row in read_samples(run.record.directory) if "completion" in row and "reward" in row]
        except DataError:
            continue
        last = max((row["step"] for row in rows), default=0)
        if rows:
            return [
                (row.get("prompt"), Said(row.get("completion"), run.seed, row["step"], usable_or_none(row.get("score"))))
                for row in rows
                if row["step"] == last
            ]
    return []
