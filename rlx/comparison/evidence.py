"""The runs of a comparison: those found, those counted, and problems that make it unfair."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rlx.comparison.choices import Choices, budget_of, known_direction
from rlx.comparison.grouping import Grouping, group, task_facts
from rlx.comparison.refusal import (
    Collected,
    Problem,
    Where,
    collect,
    find_problems,
    find_too_few,
    require_allowed,
    require_metric,
)
from rlx.comparison.scores import RunScore, count_failures
from rlx.errors import EvidenceError
from rlx.record.query import keep


@dataclass(frozen=True)
class Evidence:
    """Runs that may be compared.

    collected: all runs found. grouping: the selected runs, by variant. repeated: runs replaced by a later one.
    counted: runs with a score on `tasks`. allowed: problems that would be refused by default.
    """

    collected: Collected
    grouping: Grouping
    repeated: list[RunScore]
    counted: list[RunScore]
    tasks: list[str]
    labels: list[str]
    allowed: list[Problem]

    def of(self, label: str) -> tuple[list[RunScore], list[RunScore]]:
        """The runs of a variant: all, and the counted ones."""
        return self.runs_by_variant[label], self.counted_by_variant[label]

    @cached_property
    def runs_by_variant(self) -> dict[str, list[RunScore]]:
        """Label -> all of its runs."""
        return _by_variant(self.grouping.runs, self.labels)

    @cached_property
    def counted_by_variant(self) -> dict[str, list[RunScore]]:
        """Label -> its counted runs."""
        return _by_variant(self.counted, self.labels)

    @property
    def done(self) -> list[RunScore]:
        """The runs of all variants on the counted tasks."""
        return [run for run in self.grouping.runs if run.variant in self.labels and run.task in self.tasks]


def _by_variant(runs: Sequence[RunScore], labels: Sequence[str]) -> dict[str, list[RunScore]]:
    found: dict[str, list[RunScore]] = {label: [] for label in labels}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found


def gather(where: Where | Iterable[Where], choices: Choices) -> Evidence:
    """The runs at or below paths and patterns, or given as records.

    Raises EvidenceError if nothing is left to compare, or if the comparison would be unfair and was not allowed.
    """
    collected = collect(
        where,
        metric=choices.metric,
        score=choices.score,
        lower_is_better=bool(known_direction(choices.metric) if choices.lower_is_better is None else choices.lower_is_better),
        at=budget_of(choices.at) if choices.at is not None else None,
    )
    chosen = keep(collected.runs, choices.where, facts=lambda run: run.facts)
    require_metric(choices.metric, chosen)
    if not chosen:
        reasons = (
            "; ".join(list(collected.unreadable.values())[:3])
            or f"{len(collected.runs)} runs, none of them matches where={choices.where}"
        )
        raise EvidenceError(f"no run is left to compare: {reasons}")
    of_tasks = _on_tasks_that_ran(chosen)
    collected, chosen = replace(collected, elsewhere=len(chosen) - len(of_tasks)), of_tasks
    grouping, repeated = _latest(group(chosen, by=choices.by))
    problems = find_problems(collected, grouping.runs, choices=choices, keys=grouping.keys)
    counted = count_failures(grouping.runs, failed=choices.failed, lower_is_better=choices.is_lower_better)
    tasks, labels, counted = _common_tasks(grouping, counted, allow=choices.allow)
    problems += find_too_few(counted, labels)
    return Evidence(collected, grouping, repeated, counted, tasks, labels, require_allowed(problems, allow=choices.allow))


def _on_tasks_that_ran(runs: Sequence[RunScore]) -> list[RunScore]:
    """The runs without those that failed on tasks (by settings) on which no run was evaluated; all if no run was evaluated."""
    settings = [json.dumps(task_facts(run), sort_keys=True, default=str) for run in runs]
    ran = {task for task, run in zip(settings, runs, strict=True) if run.evaluated or run.state != "failed"}
    return [run for task, run in zip(settings, runs, strict=True) if task in ran or not ran]


def _latest(grouping: Grouping) -> tuple[Grouping, list[RunScore]]:
    """The newest of runs with the same config and seed, which are repetitions rather than further seeds."""
    newest: dict[tuple[Any, ...], RunScore] = {}
    for run in grouping.runs:  # oldest first; an unfinished run does not replace a finished one
        key = (run.variant, run.task, run.seed, run.record.config_hash)
        if key not in newest or run.state == "completed" or newest[key].state != "completed":
            newest[key] = run
    kept = {id(run) for run in newest.values()}
    repeated = [run for run in grouping.runs if id(run) not in kept]
    return replace(grouping, runs=tuple(run for run in grouping.runs if id(run) in kept)), repeated


def _common_tasks(
    grouping: Grouping, counted: Sequence[RunScore], *, allow: Sequence[str]
) -> tuple[list[str], list[str], list[RunScore]]:
    """The tasks that every variant ran, in order of appearance; the others do not count."""
    labels = list(grouping.labels)
    tasks = list(dict.fromkeys(run.task for run in grouping.runs))
    if len(tasks) > 1 and "missing" in allow:
        ran = {label: {run.task for run in counted if run.variant == label} for label in labels}
        common = [task for task in tasks if all(task in ran[label] for label in labels)]
        if not common:
            raise EvidenceError("no task was run by all variants, so nothing can be compared; run one task with all of them")
        tasks = common
    return tasks, labels, [run for run in counted if run.task in tasks]
