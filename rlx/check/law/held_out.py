"""Part of the law of draws, on held-out prompts: they are for evaluation and are never trained on."""

from __future__ import annotations

import copy
from typing import Any

from rlx.check.batch import signature, tensors_of
from rlx.check.finding import Finding, broken
from rlx.check.subject import Laboratory, Subject

HELD_OUT = ("held_out_prompts", "held_out_pairs")


def reads_held_out(subject: Subject) -> Finding | None:
    """Return a finding if a draw changes with the prompts, or pairs, that the task holds out."""
    asked: list[str] = []
    batches = [subject.draw(_with_held_out(subject.stand_in(), asked, first=first)) for first in (None, 1)]
    drawn = [signature(list(tensors_of(batch))) for batch in batches]
    if not asked or drawn[0] == drawn[1]:
        return None
    return broken(
        f"draw reads {asked[0]}, and what it makes changes with them: a run is measured by what it has learned from",
        where="draw",
        mend="draw looks at task.prompts() and task.pairs(); what is measured on others is a figure of validate",
    )


def _with_held_out(laboratory: Laboratory, asked: list[str], *, first: int | None) -> Laboratory:
    """Return the laboratory with a task that records reads of held-out rows in `asked` and holds out only the `first` ones."""

    def noting(name: str, given: Any) -> Any:
        def few() -> Any:
            asked.append(name)
            return given()[:first]

        return few

    laboratory.task = copy.copy(laboratory.task)
    for name in HELD_OUT:
        object.__setattr__(laboratory.task, name, noting(name, getattr(laboratory.task, name)))
    return laboratory
