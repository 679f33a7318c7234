"""Finds the runs of a comparison and refuses unfair comparisons, with the reason and what to run instead.

Each kind of problem can be allowed by name and is then shown as a caution.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rlx.comparison.choices import Choices, budget_of
from rlx.comparison.grouping import REWARDS_WORD
from rlx.comparison.scores import RunScore, read_score
from rlx.comparison.wording import join_names
from rlx.config.suggest import did_you_mean, nearest
from rlx.errors import ConfigError, DataError, EvidenceError
from rlx.garbage import collection_paused
from rlx.record.provenance import verify_record
from rlx.record.run import RunRecord, find_run_directories, read_run
from rlx.record.trust import command_for, folder_words, words_again

BUDGET = ("num_steps", "max_seconds", "stop_at_score")


@dataclass(frozen=True)
class Problem:
    """kind: the word that allows it. text: what is wrong. mend: what to run instead."""

    kind: str
    text: str
    mend: str


def find_problems(collected: Collected, runs: Sequence[RunScore], *, choices: Choices, keys: Sequence[str]) -> list[Problem]:
    """Everything that makes the comparison unfair or empty, allowed or not. keys: the keys that labels distinguish."""
    found = [
        Problem("damaged", reason, "delete or restore the record, or leave it out")
        for reason in list(collected.unreadable.values())[:5]
    ]
    declared = keys if choices.by is not None else ()
    silent = [] if choices.at is not None else _silent_variants(runs, choices.metric)
    if silent:
        others = sorted(set.intersection(*(set(run.evaluated) for run in runs if run.evaluated)) - {choices.metric})
        near = did_you_mean(nearest(choices.metric, others))
        mend = f"compare by a metric that all variants log{near}, such as eval/score, or leave these variants out with where="
        found.append(Problem("", f"{join_names(silent)}: no run logs {choices.metric}", mend))
    unfinished = _unfinished([run for run in runs if run.variant not in silent])
    return [*found, *unfinished, *_tasks(runs), *_budget(runs, declared, at=choices.at), *_reached(runs, choices.at)]


def _silent_variants(runs: Sequence[RunScore], metric: str) -> list[str]:
    """Variants whose completed runs log other metrics but not this one."""
    done: dict[str, list[RunScore]] = {}
    for run in runs:
        if run.record.status == "completed" and run.evaluated:
            done.setdefault(run.variant, []).append(run)
    return [label for label, mine in done.items() if all(run.score is None and metric not in run.evaluated for run in mine)]


def require_metric(metric: str, runs: Sequence[RunScore]) -> None:
    """Raise an error for a metric by which no run was evaluated, if runs were evaluated by others."""
    known = sorted({name for run in runs for name in run.evaluated if name.startswith("eval/") or name == metric})
    if known and metric not in known and all(run.score is None for run in runs):
        raise ConfigError(
            f"metric={metric}: no run was evaluated by it{did_you_mean(nearest(metric, known))}; there are {', '.join(known)}"
        )


def find_too_few(counted: Sequence[RunScore], labels: Sequence[str]) -> Iterator[Problem]:
    """Variants with a single seed, which have no spread, and variants without any score."""
    seeds_of: dict[str, dict[str, set[int]]] = {label: {} for label in labels}
    for run in counted:
        seeds_of[run.variant].setdefault(run.task, set()).add(run.seed)
    for label, per_task in seeds_of.items():
        if not per_task:
            yield Problem("", f"{label}: none of its runs has a score", "look at them with `rlx runs`, and run it again")
        for task, seeds in per_task.items():
            if len(seeds) == 1:
                where = f" on {task}" if len(per_task) > 1 else ""
                on_task = [run for run in counted if run.task == task]
                text = f"{label}{where}: one seed ({seeds.pop()}) does not show how scores vary"
                yield Problem("single", text, f"run more seeds: {more_seeds(on_task, label)}")


def more_seeds(runs: Sequence[RunScore], label: str, *, first: int = 0, on: RunScore | None = None) -> str:
    """Commands that run a variant on ten seeds from `first` on, one per task.

    on: a run whose task is used instead of the variant's.
    """
    seeds = f"'seed=range({first},{first + 10})'"
    mine = {run.task: run for run in reversed(runs) if run.variant == label}
    if not mine:
        return f"rlx -m ... {seeds}"
    first_run = mine[next(reversed(mine))]
    if first_run.record.verb != "train":
        return f"train {first_run.record.algorithm} with 10 seeds, and rlx {first_run.record.verb} each of these runs"
    chosen = [first_run] if on is not None else reversed(mine.values())
    return " && ".join(dict.fromkeys(f"rlx -m {shlex.join(_words(run, on))} {seeds}" for run in chosen))


def _words(run: RunScore, on: RunScore | None) -> list[str]:
    """The words that run it again, with the task of `on` if given."""
    kept = words_again(run.record)
    if on is not None:
        kept = [override for override in kept if not _is_of_task(override)]
        given = [override for override in on.record.overrides if _is_of_task(override)]
        kept += given if any(text.startswith("task=") for text in given) else [f"task={on.record.task}", *given]
    if not any(override.startswith(("algorithm=", "experiment=")) for override in kept):
        kept.insert(len(folder_words(run.record.command)), f"algorithm={run.record.algorithm}")
    return kept


def _is_of_task(override: str) -> bool:
    return override.lstrip("+~").startswith(("task=", "task.", "task/"))


def require_allowed(problems: Sequence[Problem], *, allow: Sequence[str]) -> list[Problem]:
    """Raise EvidenceError with the problems that are not allowed; return the allowed ones, to be shown as cautions."""
    refused = [problem for problem in problems if problem.kind not in allow]
    if not refused:
        return list(problems)
    lines = []
    for kind in dict.fromkeys(problem.kind for problem in refused):
        same = [problem for problem in refused if problem.kind == kind]
        shown = same[:6]
        lines += [line for problem in shown for line in (f"  - {problem.text}", f"    {problem.mend}")]
        if len(same) > len(shown):
            lines.append(f"  - and {len(same) - len(shown)} more like these")
    kinds = sorted({problem.kind for problem in refused if problem.kind})
    if kinds:
        lines.append(f"or compare them anyway, with these problems listed as cautions: 'allow=[{','.join(kinds)}]'")
    raise EvidenceError("these runs cannot be compared:", *lines)


def _unfinished(runs: Sequence[RunScore]) -> Iterator[Problem]:
    for run in runs:
        if run.state == "unfinished":
            said = "; ".join(run.notes) or f"is {run.record.status}"
            mend = "wait for it" if run.record.status == "running" else command_for(run.record)
            yield Problem("unfinished", f"{run.variant}, seed {run.seed} ({run.record.directory.name}) {said}", mend)


def _tasks(runs: Sequence[RunScore]) -> Iterator[Problem]:
    tasks = list(dict.fromkeys(run.task for run in runs))
    if len(tasks) < 2:
        return
    one = shlex.quote(f"where={task_condition(runs, tasks[0])}")
    mend = f"compare one at a time, {one}; with allow=[tasks] scores are averaged over tasks, each counting the same"
    yield Problem("tasks", _tasks_named(runs, tasks), mend)
    for label in dict.fromkeys(run.variant for run in runs):
        absent = [task for task in tasks if not any(run.variant == label and run.task == task for run in runs)]
        if absent:
            text = f"{label} was not run on {join_names(absent)}"
            there = next(run for run in runs if run.task == absent[0])
            if_it_can = "" if _can_learn_on(runs, label, there) else ", if that task gives what it learns from"
            mend = (
                f"run it there{if_it_can}; with allow=[missing] only tasks that all variants ran count: "
                f"{more_seeds(runs, label, on=there)}"
            )
            yield Problem("missing", text, mend)


def _can_learn_on(runs: Sequence[RunScore], label: str, there: RunScore) -> bool:
    """Whether an algorithm of this variant was evaluated on a task of this class; a task of rewards has no pairs, for example."""
    of = {run.record.algorithm for run in runs if run.variant == label}
    alike = [run for run in runs if run.config.get("task._target_") == there.config.get("task._target_")]
    return any(run.evaluated and run.record.algorithm in of for run in alike)


def _tasks_named(runs: Sequence[RunScore], tasks: Sequence[str]) -> str:
    """The words that distinguish the tasks, shortened if only their rewards differ."""
    names = {run.record.task for run in runs}
    rewards = [task.removeprefix(f"{run.record.task} ") for task in tasks for run in runs[:1]]
    if len(names) == 1 and all(word.startswith(REWARDS_WORD) and " " not in word for word in rewards):
        shown = " / ".join(word.removeprefix(REWARDS_WORD) for word in rewards)
        return f"the runs of {names.pop()} are on {len(tasks)} rewards: {shown}"
    return f"the runs are on {len(tasks)} tasks: {join_names(tasks)}"


def task_condition(runs: Sequence[RunScore], task: str) -> str:
    """A `where` that selects the runs on one task (as labelled) and no others of these: `task=NAME and KEY=VALUE`."""
    mine = next(run for run in runs if run.task == task)
    conditions = [f"task={_word(mine.record.task)}"]
    rest = [run.facts for run in runs if run.task != task and run.record.task == mine.record.task]
    keys = dict.fromkeys(key for fact in (mine.facts, *rest) for key in fact if key.startswith("task."))
    while rest:
        candidates: list[tuple[int, int, str, list[dict[str, object]]]] = []
        for key in keys:
            own = _word(mine.facts.get(key))
            words = [own] if own is not None else [word for fact in rest if (word := _word(fact.get(key))) is not None]
            for word in words:
                kept = [fact for fact in rest if (_word(fact.get(key)) == word) == (own is not None)]
                candidates.append((len(kept), key.count("."), f"{key}{'=' if own is not None else '!='}{word}", kept))
        best = min(candidates, key=lambda item: item[:2], default=None)
        if best is None or best[0] == len(rest):
            break
        conditions.append(best[2])
        rest = best[3]
    return " and ".join(conditions)


def _word(value: object) -> str | None:
    """A value in the syntax of `where`; None if it cannot be written."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if not isinstance(value, str) or ('"' in value and "'" in value):
        return None
    if re.fullmatch(r"[\w./:-]*[A-Za-z_][\w./:-]*", value) and value.lower() not in (
        "null",
        "none",
        "true",
        "false",
        "and",
        "or",
    ):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def _budget(runs: Sequence[RunScore], declared: Sequence[str], *, at: str | None) -> Iterator[Problem]:
    """Unequal training or evaluation budgets that the grouping does not name; with `at`, training budgets are equal."""
    for key in filter(_is_budget, dict.fromkeys(key for run in runs for key in run.config)):
        if key in declared or (at is not None and key in BUDGET):
            continue
        values: dict[str, list[str]] = {}
        for run in runs:
            values.setdefault(str(run.config.get(key)), []).append(run.variant)
        if len(values) > 1:
            shown = "; ".join(f"{value} ({', '.join(dict.fromkeys(names))})" for value, names in list(values.items())[:5])
            mend = f"give all of them the same {key}, or group by it: by=[algorithm,{key}]"
            yield Problem("budget", f"unequal {key}: {shown}", mend)


def _reached(runs: Sequence[RunScore], at: str | None) -> Iterator[Problem]:
    """Runs that ended before the budget at which scores are taken, and runs for which it leaves only step 0."""
    if at is None:
        return
    unit, _ = budget_of(at)
    short = sorted((run for run in runs if run.short is not None), key=lambda run: run.short or 0.0)
    if short:
        first = short[0]
        text = (
            f"{len(short)} of {len(runs)} runs spent less: {first.variant}, seed {first.seed} ended after {first.short:g} {unit}"
        )
        least = math.floor(first.short * 100) / 100 if unit == "seconds" and first.short else int(first.short or 0)
        names = join_names([run.variant for run in short])
        mend = f"compare at={unit}:{least:g}, which all of them reached, or train {names} for longer"
        yield Problem("budget", f"{text}, before at={at}", mend)
    bare = [run for run in runs if run.state == "completed" and run.step == 0]
    if bare:
        names = join_names([run.variant for run in bare])
        text = f"{len(bare)} of {len(runs)} runs ({names}) have no evaluation within at={at} except the one before training"
        yield Problem("budget", text, "evaluate more often (eval_every), or compare at a larger budget")


def declared_budgets(runs: Sequence[RunScore], declared: Sequence[str]) -> list[str]:
    """Budget keys named in `by` in which the runs differ: allowed, but reported."""
    return [key for key in declared if _is_budget(key) and len({str(run.config.get(key)) for run in runs}) > 1]


def _is_budget(key: str) -> bool:
    return key in BUDGET or (key.startswith("evaluation.") and key != "evaluation.num_shown")


# Finds the runs to compare at or below paths and patterns, and reads their scores; reports records that cannot be read.


@dataclass(frozen=True)
class Collected:
    """All runs found. unreadable: path -> reason. skipped: records of other verbs.

    elsewhere: runs that failed on tasks on which nothing was evaluated, such as a file with a misspelt column name.
    """

    runs: tuple[RunScore, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    skipped: int = 0
    elsewhere: int = 0


Where = str | os.PathLike[str] | RunRecord


@collection_paused()
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
                record = read_run(directory)
                if record.verb == "train":
                    verify_record(record)
                found[key] = record
            except DataError as error:
                unreadable[key] = str(error)
    if not found and not unreadable:
        named = ", ".join(os.fspath(place) for place in places if not isinstance(place, RunRecord)) or "nothing"
        raise EvidenceError(
            f"{named}: there are no runs; train some with `rlx -m algorithm=a,b 'seed=range(0,5)'`, or see `rlx runs`"
        )
    runs = []
    trained = any(record.verb == "train" for record in found.values())
    verb = "train" if trained else "evaluate"  # evaluations repeat runs: they are compared only if there is nothing else
    records = [(key, record) for key, record in found.items() if record.verb == verb]
    for key, record in sorted(records, key=lambda item: (item[1].started, item[0])):
        try:
            runs.append(read_score(record, metric=metric, score=score, lower_is_better=lower_is_better, at=at))
        except DataError as error:
            unreadable[key] = str(error)
    return Collected(tuple(runs), unreadable, len(found) - len(records))
