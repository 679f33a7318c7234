"""Cautions about run records: failures, budgets, repeats, truncated metrics, different code, data and tasks, missing jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.comparison.choices import Choices
from rlx.comparison.grouping import Grouping
from rlx.comparison.pair import Arm, PairComparison
from rlx.comparison.refusal import Collected, declared_budgets
from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import Serializable
from rlx.comparison.statistics.difference import welch
from rlx.comparison.wording import join_names, quantity
from rlx.record.run import read_plan


@dataclass(frozen=True)
class Caution(Serializable):
    """kind: a stable word for programs. text: for people."""

    kind: str
    text: str


def about_failures(runs: Sequence[RunScore], choices: Choices) -> Iterator[Caution]:
    """Runs that failed or did not finish, and how they are counted."""
    broken = [run for run in runs if run.state != "completed"]
    if not broken:
        return
    counts = {label: sum(run.variant == label for run in broken) for label in dict.fromkeys(run.variant for run in broken)}
    named = join_names([f"{count} of {label}" for label, count in counts.items()])
    if choices.failed == "worst":
        worst = "highest" if choices.is_lower_better else "lowest"
        how = f"counted as the {worst} score of any run at any evaluation (failed=worst)"
    else:
        how = "left out (failed=exclude), which favours variants that fail often"
    yield Caution("failed_runs", f"{quantity(len(broken), 'failed or unfinished run')} ({named}): {how}")


def about_budgets(grouping: Grouping, choices: Choices) -> Iterator[Caution]:
    """Budgets that differ by declaration."""
    keys = declared_budgets(grouping.runs, grouping.keys if choices.by is not None else ())
    if not keys:
        return
    text = f"the budgets are unequal, as by= declares ({join_names(keys)}): a larger budget may be the reason for a higher score"
    yield Caution("unequal_budget", text)


def about_records(
    runs: Sequence[RunScore], repeated: Sequence[RunScore], collected: Collected, choices: Choices
) -> Iterator[Caution]:
    """Repeated, truncated and early ended runs, different code, and jobs and records missing in the comparison."""
    if repeated:
        text = (
            f"{quantity(len(repeated), 'run')} with the variant, task and seed of a later one: only the later one counts: "
            "repeating a seed adds no evidence"
        )
        yield Caution("repeated_runs", text)
    cut = [run for run in runs if run.state == "completed" and run.notes]
    if cut:
        text = (
            f"{join_names([run.record.directory.name for run in cut])}: {cut[0].notes[0]}; the score comes from run.json, "
            f"the curve is incomplete"
        )
        yield Caution("cut_metrics", text)
    early = [run for run in runs if run.state == "completed" and run.stops_early and not run.notes]
    if early and choices.at is None:
        text = f"{quantity(len(early), 'run')} stopped before num_steps (stop_at_score or max_seconds): compare their costs too"
        yield Caution("stopped_early", text)
    codes = {str(_code(run)) for run in runs}
    if len(codes) > 1:
        yield Caution("different_code", f"the runs were made by {len(codes)} versions of the code (see provenance)")
    yield from _data(runs)
    yield from _planned(collected)
    if collected.elsewhere:
        text = f"runs that failed on a task on which no run was evaluated were left out: {collected.elsewhere}"
        yield Caution("failed_elsewhere", text)
    if collected.skipped:
        yield Caution("other_records", f"records that are not training runs were left out: {collected.skipped}")


def _data(runs: Sequence[RunScore]) -> Iterator[Caution]:
    """Files that changed between runs with the same config."""
    contents: dict[str, set[str]] = {}
    for run in runs:
        settings = {key: value for key, value in run.config.items() if key.startswith("task.")}
        known = contents.setdefault(json.dumps([run.task, settings], sort_keys=True, default=str), set())
        known.add(str(run.record.provenance.get("data")))
    for task, hashes in contents.items():
        if len(hashes) > 1:
            text = (
                f"{json.loads(task)[0]} was read with {len(hashes)} different contents: its file changed between runs, so these "
                "are not repeats of one experiment (provenance.data tells them apart)"
            )
            yield Caution("different_data", text)


def _planned(collected: Collected) -> Iterator[Caution]:
    """Sweeps with fewer records than planned jobs: jobs may have failed for a reason before they started."""
    for directory in dict.fromkeys(run.record.directory.parent for run in collected.runs):
        jobs = len((read_plan(directory) or {"jobs": ()})["jobs"])
        known = sum(run.record.directory.parent == directory for run in collected.runs)
        if jobs > known + len(collected.unreadable):
            text = f"{directory.name} planned {jobs} jobs, but only {known} of them have a record: the others are missing here"
            yield Caution("missing_jobs", text)


def _code(run: RunScore) -> object:
    rlx = run.record.provenance.get("rlx")
    return rlx.get("code", rlx.get("version")) if isinstance(rlx, dict) else rlx


def about_prompts(runs: Sequence[RunScore]) -> Iterator[Caution]:
    """Tasks on which not all runs answered the same held-out prompts, by the recorded digests."""
    for task in dict.fromkeys(run.task for run in runs):
        known = [run for run in runs if run.task == task and run.prompts is not None]
        digests = list(dict.fromkeys(run.prompts for run in known))
        if len(digests) < 2:
            continue
        sides = [
            join_names(list(dict.fromkeys(run.variant for run in known if run.prompts == digest)), most=4)
            for digest in digests[:3]
        ]
        text = (
            f"{task}: the runs answered {len(digests)} different sets of held-out prompts ({'; '.join(sides)}"
            f"{'; ...' if len(digests) > 3 else ''}): part of the difference may come from the prompts"
        )
        yield Caution("different_prompts", text)


def about_averaged_seeds(grouping: Grouping, counted: Sequence[RunScore]) -> Iterator[Caution]:
    """Seeds that a variant ran more than once with different config hashes, although its configs look equal."""
    repeated: dict[tuple[str, str, int], int] = {}
    for run in counted:
        key = (run.variant, run.task, run.seed)
        repeated[key] = repeated.get(key, 0) + 1
    found: dict[str, list[str]] = {}
    for (label, _, seed), number in repeated.items():
        if number > 1 and label not in grouping.mixed:
            found.setdefault(label, []).append(str(seed))
    if not found:
        return
    seeds = {label: f"seed{'s' * (len(set(which)) > 1)} {join_names(which)}" for label, which in found.items()}
    shown = join_names([f"{which} of {label}" for label, which in seeds.items()])
    text = (
        f"{shown}: run more than once under different config hashes; the scores of one seed are averaged and count once. "
        "Exclude the runs that you do not want with where="
    )
    yield Caution("averaged_seeds", text)


def about_environments(runs: Sequence[RunScore]) -> Iterator[Caution]:
    """Differences in environment between variants: torch, CPU, device, precision, threads, ranks."""
    seen: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in _environment(run).items():
            seen.setdefault(name, {}).setdefault(run.variant, []).append(value)
    parts = []
    for name, by_variant in seen.items():
        sides = {label: {one: values.count(one) for one in sorted(set(values))} for label, values in by_variant.items()}
        shares = {tuple((one, count / sum(side.values())) for one, count in side.items()) for side in sides.values()}
        if len(shares) > 1:
            parts.append(f"{name} ({join_names([_mixture(label, side) for label, side in sides.items()], most=4)})")
    if not parts:
        return
    text = f"the variants did not run on the same {join_names(parts)}: part of the difference may come from that"
    yield Caution("different_environment", text)


def _mixture(label: str, counts: Mapping[str, int]) -> str:
    """A variant with the value of its runs; if they differ, with the number of runs for each value."""
    if len(counts) == 1:
        return f"{label} {next(iter(counts))}"
    return f"{label} {' and '.join(f'{one} in {count} of {sum(counts.values())} runs' for one, count in counts.items())}"


def _environment(run: RunScore) -> dict[str, str]:
    """Name -> value of the recorded facts about the environment of a run."""
    made = run.record.provenance
    packages, cpu = made.get("packages"), made.get("cpu")
    facts = {
        "torch": packages.get("torch") if isinstance(packages, dict) else None,
        "CPU": cpu.get("name") if isinstance(cpu, dict) else None,
        "device": made.get("device", _named_device(run.config.get("device"))),
        "precision": run.config.get("precision", "float32"),
        "dtype of weights": run.config.get("policy.dtype"),
        "threads": run.record.threads,
        "ranks": " then ".join(dict.fromkeys(_ranks(run))),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}


def _named_device(name: Any) -> Any:
    """The device that a config names; None if it left the choice to the machine."""
    return None if name == "auto" else name


def _ranks(run: RunScore) -> list[str]:
    """How many processes trained the run, before and after each resume; one for records from before ranks existed."""
    resumes = [resume for resume in run.record.resumed if isinstance(resume, Mapping)]
    seen = [resume[name] for resume in resumes for name in ("ranks_before", "ranks") if name in resume]
    return [str(number) for number in (*seen, run.config.get("ranks", 1))]


def about_tasks(tasks: Sequence[str], arms: Sequence[Arm], pairs: Sequence[PairComparison]) -> Iterator[Caution]:
    """Tasks on which the order of two variants contradicts the verdict, which is about the mean over tasks."""
    by_label, found = {arm.label: arm for arm in arms}, []
    for pair in pairs:
        if len(tasks) < 2 or pair.verdict not in ("better", "worse"):
            continue
        tests = [welch([x], [y]) for x, y in zip(by_label[pair.a].scores, by_label[pair.b].scores, strict=True)]
        sure = (1 - pair.level) / len(tasks)
        against = [
            task
            for task, test in zip(tasks, tests, strict=True)
            if test.p is not None and test.p < sure and test.difference * pair.difference < 0
        ]
        if against:
            found.append(f"{pair.a} and {pair.b} on {join_names(against)}")
    if not found:
        return
    text = f"verdicts are about the mean over {len(tasks)} tasks, but single tasks show the opposite: {join_names(found, most=4)}"
    yield Caution("opposite_tasks", text)
