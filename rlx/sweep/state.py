"""The state of a sweep's jobs, and `sweep.json`, which holds it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from rlx.config.check import fits
from rlx.errors import DataError, TrainingError
from rlx.record.directory import this_process, utc_now
from rlx.record.files import full_disk_explained, json_value, number, read_tail, write_atomic
from rlx.record.run import PLAN, AlgorithmResult, read_run

if TYPE_CHECKING:
    from rlx.sweep.plan.plan import PlannedJob
SCHEMA_VERSION = 1
WAITING, RUNNING, COMPLETED, FAILED, INTERRUPTED, PRUNED = "waiting", "running", "completed", "failed", "interrupted", "pruned"
ENDED = (COMPLETED, FAILED, PRUNED)
SCORE = "eval/score"


@dataclass
class JobState:
    """The state of one job. log_tail: the end of the log of a failed job; attempts: how often it was begun."""

    name: str
    variant: str
    seed: int
    overrides: list[str]
    config_hash: str
    state: str = WAITING
    score: float | None = None
    step: int | None = None
    num_steps: int | None = None
    reason: str | None = None
    log_tail: str | None = None
    attempts: int = 0
    seconds: float | None = None
    reused_from: str | None = None
    trial: int | None = None

    @classmethod
    def of(cls, job: PlannedJob) -> JobState:
        """The state of a job that has not begun."""
        return cls(
            name=job.name,
            variant=job.variant,
            seed=job.seed,
            overrides=list(job.overrides),
            config_hash=job.composed.config_hash,
            num_steps=job.composed.num_steps,
        )

    @classmethod
    def of_plan(cls, values: Mapping[str, Any]) -> JobState:
        """The state of a job from a sweep.json. Raises DataError for values of the wrong type."""
        known = {key: number(value) for key, value in values.items() if key in _FIELDS} if isinstance(values, Mapping) else {}
        hints = get_type_hints(cls)
        wrong = [item.name for item in dataclasses.fields(cls) if not _holds(known, item, hints[item.name])]
        if wrong:
            raise DataError(f"{PLAN} is damaged: a job in it has no {wrong[0]} that can be read; run the sweep's command again")
        return cls(**known)

    def end(self, state: str, *, figures: Mapping[str, float] | None = None, reason: str | None = None) -> None:
        """Record that the job has ended or was interrupted."""
        self.state, self.reason = state, reason
        if figures and SCORE in figures:
            self.score = figures[SCORE]


def _holds(values: Mapping[str, Any], item: dataclasses.Field[Any], hint: Any) -> bool:
    """Whether the values have this field with the right type, or it has a default."""
    return fits(values[item.name], hint) if item.name in values else item.default is not dataclasses.MISSING


_FIELDS = {item.name for item in dataclasses.fields(JobState)}


@dataclass
class SweepState:
    """All jobs by name, in order, and facts about the sweep. Written at most once every `every` seconds, unless forced.

    is_doubtful: whether the directory holds a completed record that does not belong to its job, so runs cannot be compared.
    """

    directory: Path
    facts: dict[str, Any]
    jobs: dict[str, JobState] = field(default_factory=dict)
    every: float = 2.0
    winner: dict[str, Any] | None = None
    is_doubtful: bool = False
    _written: float = -1e9

    def counts(self) -> Counter[str]:
        """State -> number of jobs."""
        return Counter(job.state for job in self.jobs.values())

    def write(self, *, force: bool = False) -> None:
        """Write sweep.json."""
        now = time.monotonic()
        if not force and now - self._written < self.every:
            return
        jobs = [dataclasses.asdict(job) for job in self.jobs.values()]
        content = {"schema_version": SCHEMA_VERSION, **self.facts, "best": self.winner, "jobs": jobs}
        with full_disk_explained(self.directory / PLAN):
            write_atomic(self.directory / PLAN, json.dumps(json_value(content), indent=1, allow_nan=False) + "\n")
        self._written = time.monotonic()

    def give_up(self, reason: str) -> None:
        """Record in sweep.json that the sweep ends before its jobs, if it can be written."""
        for job in self.jobs.values():
            if job.state == RUNNING:
                job.end(INTERRUPTED, reason="the sweep ended while it ran")
        self.facts |= {"status": "interrupted", "ended": utc_now(), "error": reason}
        with contextlib.suppress(TrainingError):  # the reason is raised in any case
            self.write(force=True)

    def take_over(self, before: Mapping[str, Any]) -> None:
        """Take over the results of an earlier start of this sweep: completed jobs stay completed, all others wait again.

        A job whose completed record is not its own counts as failed; the record is left unchanged, and the other jobs run.
        """
        self.facts["started"] = before.get("started", self.facts["started"])
        for old in map(JobState.of_plan, before["jobs"]):
            if (job := self.jobs.get(old.name)) is not None:
                job.attempts, job.seconds, job.reused_from = old.attempts, old.seconds, old.reused_from
        for job in self.jobs.values():
            try:
                score = completed_score(self.directory, job)
            except DataError as error:
                job.end(FAILED, reason=str(error))
                self.is_doubtful = True
                continue
            if score is not None:
                job.end(COMPLETED, figures=score)


def completed_score(directory: Path, job: JobState) -> dict[str, float] | None:
    """The figures of a job's completed run in the sweep's directory; None if there is none.

    Raises DataError if the record there is that of another job, or says another score than its metrics do.
    """
    place = directory / job.name
    try:
        record = read_run(place)
    except DataError:
        return None
    if record.status != COMPLETED or record.result is None:
        return None
    figures = figures_of(record.result)
    logged = [number(row[SCORE]) for row in read_tail(place / "metrics.jsonl") if SCORE in row]
    said = {"config_hash": record.config_hash, "seed": record.seed, SCORE: figures.get(SCORE)}
    planned = {"config_hash": job.config_hash, "seed": job.seed, SCORE: logged[-1] if logged else said[SCORE]}
    if odd := [name for name in said if repr(said[name]) != repr(planned[name])]:
        raise DataError(
            f"{place}: {odd[0]} is {said[odd[0]]!r:.60} in run.json, and {planned[odd[0]]!r:.60} in "
            f"{'metrics.jsonl' if odd[0] == SCORE else 'the plan of the sweep'}; one of the two was changed: restore it, or "
            "delete this directory, and the job is run again"
        )
    return figures


def figures_of(result: AlgorithmResult) -> dict[str, float]:
    """The last value of every evaluation metric of a run, and its number of tokens."""
    tokens = {f"cost/{name}": result.metadata.get(name) for name in ("tokens_sampled", "tokens_trained")}
    return {**result.performance_metrics, **{name: float(value) for name, value in tokens.items() if value is not None}}


def new_facts(command: Sequence[str], overrides: Sequence[str], **facts: Any) -> dict[str, Any]:
    """The facts about a sweep as a whole in sweep.json."""
    return {"status": RUNNING, "command": list(command), "overrides": list(overrides), "started": utc_now(), "ended": None} | {
        "process": this_process(),
        **facts,
    }


def variant_scores(jobs: Sequence[JobState]) -> dict[str, list[float]]:
    """Variant -> the scores of its seeds, for variants whose jobs are all completed."""
    scores: dict[str, list[float]] = {}
    spoiled = {job.variant for job in jobs if job.state != COMPLETED or job.score is None or job.score != job.score}
    for job in jobs:
        if job.variant not in spoiled and job.score is not None:
            scores.setdefault(job.variant, []).append(job.score)
    return scores


def best(jobs: Sequence[JobState]) -> dict[str, Any] | None:
    """The variant with the best mean score over its seeds; None while no variant is complete."""
    scores = variant_scores(jobs)
    if not scores:
        return None
    means = {variant: sum(values) / len(values) for variant, values in scores.items()}
    winner = max(means, key=lambda variant: means[variant])
    first = next(job for job in jobs if job.variant == winner)
    overrides = [text for text in first.overrides if not text.startswith("seed=")]
    seeds = [job.seed for job in jobs if job.variant == winner]
    return {"variant": winner, "score": means[winner], "scores": scores[winner], "seeds": seeds, "overrides": overrides}


def timeout_reason(seconds: float) -> str:
    """The reason for a job that took too long."""
    return f"timeout: it took more than {seconds:g} s (sweep.timeout)"


def mark_failed(directory: Path, reason: str) -> None:
    """Write the outcome into the record of a job that was killed or took too long; a record that has ended is left unchanged."""
    try:
        if read_run(directory).status in (COMPLETED, FAILED):
            return
    except DataError:  # killed before it had a record
        return
    file = directory / "run.json"
    with contextlib.suppress(OSError):
        content = json.loads(file.read_bytes())
        content |= {"status": FAILED, "error": {"type": "Killed", "message": reason}, "ended": utc_now()}
        write_atomic(file, json.dumps(content, indent=2) + "\n")
