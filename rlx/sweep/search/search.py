"""A search as a source of jobs: it asks the study for variants, runs each with its seeds, and reports the results."""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.errors import DataError
from rlx.record.provenance import short_setting
from rlx.report.text import significant
from rlx.sweep.plan.plan import PlannedJob
from rlx.sweep.plan.settings import SearchSettings
from rlx.sweep.search.study import DIFFERS, JOURNAL, Study
from rlx.sweep.state import COMPLETED, ENDED, FAILED, INTERRUPTED, PRUNED, SCORE, WAITING, JobState, SweepState, completed_score

# Which variants have no chance to be the best, judged by the seeds run so far.

_THRESHOLD = 0.2  # p below which a variant is abandoned; with 3 seeds, all worse, p is 0.125
FEWEST = 4  # from this many seeds on, the remaining seeds of a variant can be skipped


def is_beaten(scores: Mapping[int, float], best: Mapping[int, float]) -> bool:
    """Whether scores (by seed) are below those of the best variant on the same seeds: a one-sided Wilcoxon signed-rank test."""
    from scipy.stats import wilcoxon

    differences = [scores[seed] - best[seed] for seed in scores if seed in best]
    if not any(differences):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and zeros make p approximate, which is sufficient here
        return bool(wilcoxon(differences, alternative="less").pvalue < _THRESHOLD)


# The search itself.

TOKENS = ("cost/tokens_sampled", "cost/tokens_trained")


@dataclass
class Trial:
    """A running variant. jobs: one per seed, in order."""

    number: int
    jobs: list[JobState]
    begun: set[str] = field(default_factory=set)
    is_over: bool = False


@dataclass
class Search:
    """Supplies jobs until the trials, the time or the tokens are used up.

    make: makes the job of a variant's overrides and a seed. figures: of the completed jobs, by job name.
    """

    study: Study
    state: SweepState
    settings: SearchSettings
    seeds: tuple[int, ...]
    make: Callable[[tuple[str, ...], int], PlannedJob]
    jobs: dict[str, PlannedJob] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    figures: dict[str, Mapping[str, float]] = field(default_factory=dict)
    spent_seconds: float = 0.0
    spent_tokens: float = 0.0
    confirming: deque[JobState] | None = None
    confirmed: list[JobState] = field(default_factory=list)
    _since: float = field(default_factory=time.monotonic)

    @property
    def wants_answers(self) -> bool:
        """Whether jobs wait at their evaluations for the decision to prune them."""
        return self.settings.pruner != "none"

    def take_up(self) -> None:
        """Continue the trials of earlier starts, with their jobs and results."""
        self.spent_seconds = float(self.state.facts.get("spent_seconds", 0.0))
        before = dict(self.state.jobs)
        self.state.jobs.clear()
        for frozen in self.study.begun():
            trial = self._open(frozen.number, tuple(frozen.user_attrs[DIFFERS]))
            for job in trial.jobs:
                self._recall(job, before.get(job.name))
            if frozen.state.is_finished():
                trial.is_over = True
                done = [self.figures[job.name] for job in trial.jobs if job.name in self.figures]
                values = self.study.values_of(done) if len(done) == len(trial.jobs) else None
                if frozen.values is not None and values not in (None, frozen.values):
                    raise DataError(
                        f"{self.state.directory / JOURNAL} says {frozen.values} of trial {frozen.number}, and the records of its "
                        f"runs {values}; one of the two was changed: restore it, or begin a new search with another sweep.name"
                    )
            self._settle(trial)

    def _recall(self, job: JobState, before: JobState | None) -> None:
        if before is not None and job.state == WAITING:
            job.attempts, job.seconds = before.attempts, before.seconds
            if before.state in (FAILED, PRUNED):
                job.end(before.state, reason=before.reason)
                job.score, job.log_tail = before.score, before.log_tail
        figures = completed_score(self.state.directory, job)
        if figures is not None:
            job.end(COMPLETED, figures=figures)
            self._note(job, figures)

    def _open(self, number: int, differs: tuple[str, ...]) -> Trial:
        states = []
        for seed in self.seeds:
            job = self.make(differs, seed)
            self.jobs.setdefault(job.name, job)
            state = self.state.jobs.setdefault(job.name, JobState.of(job))
            state.trial = number if state.trial is None else state.trial
            states.append(state)
        trial = self.trials[number] = Trial(number, states)
        return trial

    def next(self) -> JobState | None:
        """The next seed of a running trial, else the first seed of a new trial, else a seed of the confirmation."""
        if self.confirming is not None:
            return self.confirming.popleft() if self.confirming and not self._is_used_up() else None
        for trial in self.trials.values():
            if (job := self._next_seed(trial)) is not None:
                return job
        while not self._is_used_up() and len(self.trials) < self.study.limit():
            trial = self._open(*self.study.ask())
            self._settle(trial)
            if (job := self._next_seed(trial)) is not None:
                return job
        return None

    def _next_seed(self, trial: Trial) -> JobState | None:
        if trial.is_over:
            return None
        one_by_one = self.settings.seed_pruner != "none"
        for job in trial.jobs:
            if job.state in (WAITING, INTERRUPTED) and job.name not in trial.begun:
                trial.begun.add(job.name)
                return job
            if one_by_one and job.state not in ENDED:
                return None
        return None

    def _is_used_up(self) -> bool:
        seconds, tokens = self.settings.max_seconds, self.settings.max_tokens
        out_of_time = seconds is not None and self.seconds() >= seconds
        return out_of_time or (tokens is not None and self.spent_tokens >= tokens)

    def seconds(self) -> float:
        """The seconds that the search has taken, over all starts."""
        return self.spent_seconds + time.monotonic() - self._since

    def ended(self, job: JobState, figures: Mapping[str, float]) -> None:
        """Handle the end of a job: the trial ends if the job failed, was pruned, or was the last seed."""
        self._note(job, figures)
        self.state.facts["spent_seconds"] = self.seconds()
        for trial in list(self.trials.values()):
            if any(one.name == job.name for one in trial.jobs):
                self._settle(trial)

    def _note(self, job: JobState, figures: Mapping[str, float]) -> None:
        self.spent_tokens += sum(figures.get(name, 0.0) for name in TOKENS)
        if job.state == COMPLETED:
            self.figures[job.name] = dict(figures)

    def _settle(self, trial: Trial) -> None:
        """Report a decided trial to the study."""
        if trial.is_over:
            return
        states = {job.state for job in trial.jobs}
        done = [self.figures[job.name] for job in trial.jobs if job.name in self.figures]
        if FAILED in states or any(self.study.values_of([figures]) is None for figures in done):
            self._close(trial, None)
        elif PRUNED in states:
            self._close(trial, done, pruned=True)
        elif len(done) == len(trial.jobs):
            self._close(trial, done)
        elif self.settings.seed_pruner != "none" and is_beaten(self._scores(trial), self._best_scores()):
            self._close(trial, done, pruned=True)

    def _scores(self, trial: Trial) -> dict[int, float]:
        """Seed -> objective (larger is better), of the completed seeds of a trial."""
        sign = self.study.signs[self.objective]
        return {
            job.seed: sign * value for job, value in zip(trial.jobs, self.values(trial.jobs), strict=True) if value is not None
        }

    def trials_in_place_of_failed(self) -> int | None:
        """The number of trials that would replace the failed ones; None if failed jobs are run again, or a grid has no more."""
        failed = {job.trial for job in self.state.jobs.values() if job.state == FAILED}
        is_over = all(job.state in ENDED for job in self.state.jobs.values()) and None not in failed
        return len(self.trials) + len(failed) if is_over and self.settings.sampler != "grid" else None

    @property
    def objective(self) -> str:
        """The first objective's metric."""
        return next(iter(self.study.signs))

    def values(self, jobs: Sequence[JobState]) -> list[float | None]:
        """The objective of each job; None for a job that is not completed."""
        return [self.figures[job.name].get(self.objective) if job.name in self.figures else None for job in jobs]

    def _best_scores(self) -> dict[int, float]:
        best = self.study.best()
        return self._scores(self.trials[best[0].number]) if best else {}

    def _close(self, trial: Trial, done: list[Mapping[str, float]] | None, *, pruned: bool = False) -> None:
        trial.is_over = True
        self.study.tell(trial.number, done, pruned=pruned)
        for job in trial.jobs:
            if job.state == WAITING and job.name not in trial.begun:
                job.end(PRUNED, reason="its variant failed on another seed" if done is None else "its variant was given up")

    def shall_prune(self, job: JobState, step: int, figures: Mapping[str, float]) -> bool:
        """Only the first seed of a trial can be pruned; the others run because it did well."""
        for trial in self.trials.values():
            if not trial.is_over and trial.jobs[0].name == job.name:
                return self.study.shall_prune(trial.number, step, figures)
        return False

    def confirm(self) -> bool:
        """After the search, queue the best variant on new seeds; returns whether there is anything to run."""
        best = self.study.best()
        if self.settings.confirm == 0 or not best or self.confirming is not None:
            return False
        self.confirming = deque()
        first = max(self.seeds) + 1
        for seed in range(first, first + self.settings.confirm):
            job = self.make(tuple(best[0].user_attrs[DIFFERS]), seed)
            self.jobs.setdefault(job.name, job)
            state = self.state.jobs.setdefault(job.name, JobState.of(job))
            figures = completed_score(self.state.directory, state)
            if figures is not None:
                state.end(COMPLETED, figures=figures)
                self._note(state, figures)
            self.confirmed.append(state)
            if state.state not in ENDED:
                self.confirming.append(state)
        return bool(self.confirming)


# The report of a finished search: the best variant with both its scores, the importances, the plots.


_PLOTS = {
    "history": "plot_optimization_history",
    "slices": "plot_slice",
    "parallel_coordinates": "plot_parallel_coordinate",
}


def best_of_search(search: Search) -> dict[str, Any] | None:
    """The best variant of a search as stored in sweep.json, with the scores on new seeds if it was confirmed."""
    best = search.study.best()
    if not best:
        return None
    jobs = search.trials[best[0].number].jobs
    found: dict[str, Any] = {
        "variant": " ".join(map(short_setting, best[0].user_attrs[DIFFERS])),
        "trial": best[0].number,
        "objective": search.objective,
        "score": best[0].values[0],
        "scores": [value for value in search.values(jobs) if value is not None],
        "seeds": [job.seed for job in jobs],
        "overrides": [text for text in jobs[0].overrides if not text.startswith("seed=")],
    }
    values = zip(search.confirmed, search.values(search.confirmed), strict=True)
    confirmed = {job.seed: value for job, value in values if value is not None}
    if confirmed:
        scores = list(confirmed.values())
        found |= {"confirmed_score": sum(scores) / len(scores), "confirmed_scores": scores, "confirmed_seeds": list(confirmed)}
    if len(search.study.signs) > 1:
        found["front"] = [{"trial": one.number, "differs": one.user_attrs[DIFFERS], "values": one.values} for one in best]
    return found


SETTLED = 20  # trials per key from which on importances are shown without a caution


def summary_lines(search: Search, best: Mapping[str, Any] | None, importances: Mapping[str, float]) -> list[str]:
    """The lines that summarise a search."""
    states: dict[str, int] = {}
    for trial in search.study.begun():
        states[trial.state.name.lower()] = states.get(trial.state.name.lower(), 0) + 1
    lines = [f"{len(search.trials)} trials: " + ", ".join(f"{count} {name}" for name, count in sorted(states.items()))]
    if best is None:
        return [*lines, "no trial has a value, so there is no best variant"]
    name = "score" if search.objective == SCORE else search.objective
    lines.append(f"best: {best['variant']} (trial {best['trial']})")
    lines.append(f"  {name} {significant(best['score'])} in the search, over seeds {_listed(best['seeds'])}")
    if "confirmed_score" in best:
        seeds = _listed(best["confirmed_seeds"])
        lines.append(
            f"  {name} {significant(best['confirmed_score'])} on fresh seeds {seeds}: "
            "trust this one, because the first is the best of many"
        )
    elif search.settings.confirm == 0 and len(search.trials) > 1:
        lines.append("  the best of many is biased upwards; sweep.confirm=5 runs it again on new seeds")
    for one in best.get("front", ()):
        values = "  ".join(f"{name} {significant(value)}" for name, value in zip(search.study.signs, one["values"], strict=True))
        lines.append(f"  front: trial {one['trial']}  {values}  {' '.join(map(short_setting, one['differs']))}")
    if importances:
        lines.append("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in importances.items()))
        ended = sum(trial.state.name == "COMPLETE" for trial in search.study.begun())
        if ended < (enough := SETTLED * len(importances)):
            lines.append(f"  of {ended} trials: these shares change with every further one, {enough} or more settle them")
    return lines


def _listed(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds))


def draw_plots(search: Search, folder: Path) -> list[Path]:
    """Draw the figures of a search as PNG; one that cannot be drawn (of a single trial, say) is skipped with a note on stderr."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import optuna.visualization.matplotlib as drawn

    several = len(search.study.signs) > 1
    plots = dict.fromkeys(("pareto_front",), "plot_pareto_front") if several else dict(_PLOTS)
    if several:
        plots |= {"slices": "plot_slice", "parallel_coordinates": "plot_parallel_coordinate"}
    files = []
    folder.mkdir(exist_ok=True)
    for name, function in plots.items():
        options: dict[str, Any] = {"target_name": search.objective}
        if name == "pareto_front":
            options = {"target_names": list(search.study.signs)}
        elif several:
            options["target"] = lambda trial: trial.values[0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                getattr(drawn, function)(search.study.study, **options)
                plt.gcf().savefig(folder / f"{name}.png", dpi=150, bbox_inches="tight")
            files.append(folder / f"{name}.png")
        except (ValueError, RuntimeError, TypeError, ImportError) as error:
            print(f"no plot {name}: {type(error).__name__}: {error}", file=sys.stderr)
        plt.close("all")
    importances = search.study.importances()
    if importances:
        files.append(_draw_importances(importances, folder / "importances.png"))
    return files


def _draw_importances(importances: Mapping[str, float], file: Path) -> Path:
    import matplotlib.pyplot as plt

    names = list(reversed(list(importances)))
    figure_, axes = plt.subplots(figsize=(6, 1 + 0.4 * len(names)))
    axes.barh(names, [importances[name] for name in names])
    axes.set_xlabel("share in what decides whether a trial is among the best")
    figure_.savefig(file, dpi=150, bbox_inches="tight")
    plt.close(figure_)
    return file


def print_outcome(search: Search, best: Mapping[str, Any] | None, directory: Path) -> None:
    """Print the summary of a search, and draw its plots."""
    print("\n" + "\n".join(summary_lines(search, best, search.study.importances())), flush=True)
    if search.settings.plots and best is not None:
        try:
            files = draw_plots(search, directory / "figures")
        except (ImportError, OSError) as error:
            print(f"no plots: {error}", file=sys.stderr)
            return
        if files:
            print(f"plots: {', '.join(file.name for file in files)} in {files[0].parent}")
