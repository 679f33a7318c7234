"""What a reader must know before believing a comparison, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlx.comparison.choices import Choices
from rlx.comparison.evidence import Evidence
from rlx.comparison.pair import UNEQUAL, Arm
from rlx.comparison.plain import Plain
from rlx.comparison.refusal import declared_budgets, more_seeds
from rlx.comparison.scores import Collected, RunScore
from rlx.comparison.statistics.shape import describe_shape
from rlx.comparison.summary import Variant
from rlx.comparison.variant import Grouping
from rlx.comparison.verdict import FEWEST

# A caution about a comparison, and those that the runs themselves give rise to.


@dataclass(frozen=True)
class Caution(Plain):
    """kind: a stable word for programs. text: for people."""

    kind: str
    text: str


def about_failures(runs: Sequence[RunScore], choices: Choices) -> list[Caution]:
    """Runs that failed or did not finish, and what they count as."""
    broken = [run for run in runs if run.state != "completed"]
    if not broken:
        return []
    counts = {label: sum(run.variant == label for run in broken) for label in dict.fromkeys(run.variant for run in broken)}
    named = listed([f"{count} of {label}" for label, count in counts.items()])
    if choices.failed == "worst":
        how = "counted as the lowest score of any run at any evaluation (failed=worst)"
    else:
        how = "left out (failed=exclude), which favours whatever fails often"
    return [Caution("failed_runs", f"{len(broken)} failed or unfinished run{'s' * (len(broken) > 1)} ({named}): {how}")]


def about_budgets(grouping: Grouping, choices: Choices) -> list[Caution]:
    """Budgets that differ because they were declared to."""
    keys = declared_budgets(grouping.runs, grouping.keys if choices.by is not None else ())
    if not keys:
        return []
    text = f"the budgets are unequal, as by= declares ({listed(keys)}): more of it may be the reason for a higher score"
    return [Caution("unequal_budget", text)]


def about_records(runs: Sequence[RunScore], repeated: Sequence[RunScore], collected: Collected) -> list[Caution]:
    """Repeated, cut and early ended runs, code that differs, jobs and records that are not in the comparison."""
    found = []
    if repeated:
        text = (
            f"{len(repeated)} runs repeat the variant, task and seed of a later one: the later one counts, for a "
            f"repeated seed is no further seed"
        )
        found.append(Caution("repeated_runs", text))
    cut = [run for run in runs if run.state == "completed" and run.notes]
    if cut:
        text = (
            f"{listed([run.record.directory.name for run in cut])}: {cut[0].notes[0]}; the score is that of run.json, "
            f"the curve is cut"
        )
        found.append(Caution("cut_metrics", text))
    early = [run for run in runs if run.state == "completed" and run.stops_early and not run.notes]
    if early:
        found.append(
            Caution(
                "stopped_early",
                f"{len(early)} runs stopped before num_steps (stop_at_score or max_seconds): compare their costs too",
            )
        )
    codes = {str(_code(run)) for run in runs}
    if len(codes) > 1:
        found.append(Caution("different_code", f"the runs were made by {len(codes)} versions of the code (see provenance)"))
    found += [*_data(runs), *_planned(collected)]
    if collected.skipped:
        found.append(Caution("other_records", f"{collected.skipped} records that are no training runs were left out"))
    return found


def _data(runs: Sequence[RunScore]) -> list[Caution]:
    """Files that changed between runs that read them by one config."""
    contents: dict[str, set[str]] = {}
    for run in runs:
        task = {key: value for key, value in run.config.items() if key.startswith("task.")}
        contents.setdefault(json.dumps([run.task, task], sort_keys=True, default=str), set()).add(
            str(run.record.provenance.get("data"))
        )
    return [
        Caution(
            "different_data",
            f"{json.loads(task)[0]} was read with {len(hashes)} different contents: its file changed between runs, so these "
            "are no repeats of one experiment (provenance.data tells them apart)",
        )
        for task, hashes in contents.items()
        if len(hashes) > 1
    ]


def _planned(collected: Collected) -> list[Caution]:
    """Sweeps that planned more jobs than there are records: what never started may have failed for a reason."""
    found = []
    for directory in dict.fromkeys(run.record.directory.parent for run in collected.runs):
        try:
            jobs = len(json.loads((directory / "sweep.json").read_bytes())["jobs"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        known = sum(run.record.directory.parent == directory for run in collected.runs)
        if jobs > known + len(collected.unreadable):
            text = f"{directory.name} planned {jobs} jobs, but {known} of them have a record: the others are not in here"
            found.append(Caution("missing_jobs", text))
    return found


def _code(run: RunScore) -> object:
    rlx = run.record.provenance.get("rlx")
    return rlx.get("code", rlx.get("version")) if isinstance(rlx, dict) else rlx


def listed(names: Sequence[str], *, most: int = 5) -> str:
    """The first few names, and how many more there are."""
    unique = list(dict.fromkeys(names))
    rest = f" and {len(unique) - most} more" if len(unique) > most else ""
    return ", ".join(unique[:most]) + rest


# What a reader must know before believing a comparison, each with its reason.

FEW = 10
# Measured (rlx/comparison/statistics/measured.py): up to so many seeds, the 95 % t interval of the mean covers so much.
_COVERAGE = {
    "skewed": ((7, "82 %"), (14, "84 %"), (30, "87 %")),
    "groups": ((7, "66 %"), (14, "89 %"), (30, "92 %")),
}


def find_cautions(evidence: Evidence, *, choices: Choices, arms: Sequence[Arm], variants: Sequence[Variant]) -> list[Caution]:
    """All cautions, the gravest first."""
    runs, grouping = evidence.grouping.runs, evidence.grouping
    allowed = [
        Caution(f"allowed_{problem.kind}", f"compared although refused by default: {problem.text}")
        for problem in evidence.allowed
    ]
    return [
        *allowed,
        *_seeds(arms, runs),
        *_same(arms),
        *about_failures(runs, choices),
        *_shapes(arms),
        *_grouping(grouping),
        *about_budgets(grouping, choices),
        *about_records(runs, evidence.repeated, evidence.collected),
        *_selection(grouping, variants),
        *_costs(variants),
        *_pairing(arms, choices),
        *_declared(choices),
    ]


def _seeds(arms: Sequence[Arm], runs: Sequence[RunScore]) -> list[Caution]:
    found = []
    sizes = {arm.label: arm.n for arm in arms}
    least = min(sizes.values())
    if least < FEWEST:
        few = listed([label for label, n in sizes.items() if n < FEWEST])
        text = f"fewer than {FEWEST} seeds ({few}): intervals and p are shown, but every verdict about them is exploratory"
        found.append(Caution("fewer_than_5_seeds", f"{text}; run {FEW}: {more_seeds(runs, min(sizes, key=lambda k: sizes[k]))}"))
    elif least < FEW:
        text = (
            f"{least} seeds find only large differences (of about {_detectable(least):.1f} standard deviations); {FEW} "
            f"are suggested"
        )
        found.append(Caution("fewer_than_10_seeds", text))
    if max(sizes.values()) >= UNEQUAL * least:
        text = (
            f"{least} to {max(sizes.values())} seeds: with skewed scores Welch's t errs then, so a permutation test "
            f"must agree with it"
        )
        found.append(Caution("unequal_seeds", text))
    return found


def _detectable(seeds: int) -> float:
    from rlx.comparison.statistics.power import detectable_difference

    return detectable_difference(error=float(np.sqrt(2 / seeds)), df=2 * seeds - 2)


def _same(arms: Sequence[Arm]) -> list[Caution]:
    found = []
    for arm in arms:
        flat = arm.n > 1 and all(float(np.ptp(scores)) <= 1e-12 for scores in arm.scores)
        if arm.same_run:
            text = f"{arm.label}: all {arm.n} runs agree in every metric at every step: is the seed used? They count as one run"
            found.append(Caution("identical_runs", text))
        elif flat:
            text = (
                f"{arm.label}: identical results over all {arm.n} seeds: is the seed used? A spread of 0 says nothing "
                f"about new seeds"
            )
            found.append(Caution("identical_results", text))
    return found


def _shapes(arms: Sequence[Arm]) -> list[Caution]:
    found = []
    alpha = 0.05 / sum(len(arm.scores) for arm in arms)  # or many normal variants would hold one that looks odd
    shaped = [(arm.label, describe_shape(scores, alpha=alpha)) for arm in arms for scores in arm.scores]
    named: dict[str, list[str]] = {}
    for label, shape in shaped:
        if shape is not None:
            named.setdefault(shape, []).append(label)
    for shape, labels in named.items():
        few = min(len(scores) for arm in arms if arm.label in labels for scores in arm.scores)
        about = next((cover for seeds, cover in _COVERAGE["skewed" if shape == "skewed" else "groups"] if few <= seeds), "")
        reason = f"a 95 % interval of the mean covers about {about} then" if about else "the mean may not be what matters then"
        text = (
            f"scores do not look normal ({shape}) for {listed(labels)}: {reason}; look at the single runs, and compare "
            f"the IQM too"
        )
        found.append(Caution("not_normal", text))
    return found


def _grouping(grouping: Grouping) -> list[Caution]:
    found = []
    if grouping.mixed:
        keys = listed(list(dict.fromkeys(key for keys in grouping.mixed.values() for key in keys)))
        text = (
            f"variants hold runs that differ in {keys}: runs of one seed were averaged, so a verdict is about the average setting"
        )
        found.append(Caution("mixed_variants", text))
    if grouping.beyond:
        text = (
            f"the algorithms also differ in {listed(grouping.beyond)}: nobody can tell whether the algorithm or that "
            f"made the difference"
        )
        found.append(Caution("confounded", text))
    return found


def _selection(grouping: Grouping, variants: Sequence[Variant]) -> list[Caution]:
    settings = {
        name: sum(variant.algorithm == name for variant in variants) for name in {variant.algorithm for variant in variants}
    }
    most = max(settings, key=lambda name: settings[name])
    if settings[most] < 3:
        if not grouping.mixed:
            return []
        text = (
            "several settings stand behind a variant: these runs say how good they are on average; for the best one compare "
            "without by=, and confirm it on fresh seeds"
        )
        return [Caution("selected_on_same_seeds", text)]
    best = min(variants, key=lambda variant: variant.rank)
    top = max(best.seeds, default=0) + 1
    command = more_seeds(grouping.runs, best.label).replace("range(0,10)", f"range({top},{top + FEW})")
    text = (
        f"the best of {len(variants)} variants was picked on the seeds that it is judged by, which flatters it; "
        f"confirm it on fresh seeds: {command}"
    )
    return [Caution("selected_on_same_seeds", text)]


def _costs(variants: Sequence[Variant]) -> list[Caution]:
    tokens = {variant.label: variant.tokens for variant in variants if variant.tokens}
    if len(tokens) < 2:
        return []
    low, high = min(tokens, key=lambda k: tokens[k] or 0), max(tokens, key=lambda k: tokens[k] or 0)
    ratio = (tokens[high] or 0) / (tokens[low] or 1)
    if ratio < 2:
        return []
    return [Caution("unequal_cost", f"equal steps are not equal cost: {high} spent {ratio:.1f} times the tokens of {low}")]


def _pairing(arms: Sequence[Arm], choices: Choices) -> list[Caution]:
    if not choices.paired:
        return []
    shared = set.intersection(*(set(arm.seeds[0]) for arm in arms))
    lost = sum(len(set(arm.seeds[0]) - shared) for arm in arms)
    text = (
        "runs of one seed are compared as pairs, because paired=true was declared; that holds only if the seed "
        "drives both in the same way"
    )
    found = [Caution("paired", text)]
    if lost:
        found.append(
            Caution(
                "unpaired_seeds", f"{lost} runs have no partner of their seed in every other variant and drop out of some pairs"
            )
        )
    return found


def _declared(choices: Choices) -> list[Caution]:
    if choices.score == "best":
        text = (
            "the score is the best of all evaluations (score=best): a maximum of noise is higher than what a new "
            "evaluation would give"
        )
        return [Caution("best_score", text)]
    return []
