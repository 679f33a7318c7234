"""From run records to scores: one number a run, with what it cost and how sure it is. Reads records only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlx.comparison.numbers import is_number, is_usable, number_or, usable, usable_or_none
from rlx.comparison.serializable import Serializable, to_plain
from rlx.comparison.statistics.curve import area_under_curve
from rlx.comparison.statistics.interval import Array
from rlx.record.lines import read_lines, read_metrics
from rlx.record.run import RunRecord

KL = "eval/kl"
PROBABILITY_SCORES = ("eval/accuracy", "eval/pair_accuracy")


@dataclass(frozen=True)
class RunScore(Serializable):
    """One run as the comparison sees it.

    score: by the declared rule; None if the run has none. state: completed, failed, unfinished.
    steps, values: the learning curve [K]. step: the last that was evaluated. prompt_error: standard error over prompts.
    fingerprint: of all metrics, to tell runs that are one and the same. answers: scores per prompt at the last evaluation.
    evaluated: the names of the metrics of its evaluations.
    """

    record: RunRecord
    config: Mapping[str, Any]
    score: float | None
    state: str
    steps: Array
    values: Array
    step: int
    area: float
    kl: float | None
    tokens: float | None
    seconds: float | None
    prompt_error: float | None
    fingerprint: int
    answers: Array | None = None
    evaluated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    variant: str = ""
    task: str = ""
    imputed: bool = False

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.record.seed

    @property
    def stops_early(self) -> bool:
        """Whether it ended before the steps that its config names."""
        return self.step < number_or(self.config.get("num_steps"), 0)

    def to_dict(self) -> dict[str, Any]:
        """What comparison.json says about a run; its curve stands under its variant's."""
        names = (
            "variant",
            "task",
            "seed",
            "state",
            "score",
            "imputed",
            "step",
            "tokens",
            "seconds",
            "kl",
            "prompt_error",
            "notes",
        )
        record = self.record
        about = {"id": record.id, "directory": str(record.directory), "status": record.status, "config_hash": record.config_hash}
        return {**about, **{name: to_plain(getattr(self, name)) for name in names}, "error": to_plain(record.error)}

    @property
    def facts(self) -> dict[str, Any]:
        """What `where` may ask about: the config's keys and the record's."""
        names = ("algorithm", "task", "variant", "seed", "status", "id", "started")
        about = {name: getattr(self.record, name) for name in names}
        return {**self.config, **about, "score": self.score, "state": self.state, "steps": self.step}


def read_score(record: RunRecord, *, metric: str, score: str) -> RunScore:
    """What a run's record says about its score."""
    rows = read_metrics(record.directory)
    curve = dict(
        sorted(
            {
                int(row["step"]): usable(row[metric]) for row in rows if is_number(row.get(metric)) and is_number(row["step"])
            }.items()
        )
    )
    steps, values = np.array(list(curve), int), np.array(list(curve.values()), float)
    result = record.result
    metadata = result.metadata if result is not None and isinstance(result.metadata, Mapping) else {}
    stated = result.performance_metrics.get(metric) if result is not None else None
    ended = metadata.get("steps")
    value, notes = _by_rule(score, values, stated, cut=is_number(ended) and (len(steps) == 0 or steps[-1] < ended))
    reached = int(ended) if is_number(ended) else int(steps[-1]) if len(steps) else 0
    state = {"completed": "completed", "failed": "failed"}.get(record.status, "unfinished")
    if state == "completed":
        if value is None and stated is None and len(values) == 0:
            state, notes = "unfinished", (*notes, f"says completed, but holds no {metric}")
        elif value is None or not is_usable(value):
            state, notes = "failed", (*notes, f"{metric} is not finite")
        elif reached < number_or(record.config.get("num_steps"), 0) and not _may_stop_early(record.config):
            state, notes = "unfinished", (*notes, f"ends at step {reached} of {record.config.get('num_steps')}")
    evaluated = [row for row in rows if metric in row]
    last = evaluated[-1] if evaluated else {}
    tokens = [metadata[name] for name in ("tokens_sampled", "tokens_trained") if is_number(metadata.get(name))]
    return RunScore(
        record=record,
        config=flatten(record.config),
        score=value if value is not None and is_usable(value) else None,
        state=state,
        steps=steps,
        values=values,
        step=reached,
        area=area_under_curve(steps, values),
        kl=usable_or_none(last.get(KL, result.performance_metrics.get(KL) if result is not None else None)),
        tokens=float(sum(tokens)) if tokens else None,
        seconds=usable_or_none(result.training_time) if result is not None else None,
        prompt_error=_prompt_error(last, metric, record.config),
        fingerprint=_fingerprint(rows),
        answers=_answers(record, metric),
        evaluated=tuple(dict.fromkeys(name for row in rows for name in row if name.startswith("eval/"))),
        notes=notes,
    )


def _by_rule(score: str, values: Array, stated: Any, *, cut: bool) -> tuple[float | None, tuple[str, ...]]:
    """The score by the declared rule. Where metrics were cut, the result in the record stands for their end."""
    notes: tuple[str, ...] = ("metrics.jsonl ends before the run did",) if cut else ()
    last = float(stated) if is_number(stated) else float(values[-1]) if len(values) else None
    if score == "last":
        return last, notes
    candidates = [value for value in (*values, last) if value is not None]
    return (float(max(candidates)) if candidates else None), notes


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> int:
    """Equal for runs whose metrics agree in everything but time."""
    kept = [tuple(sorted((k, repr(v)) for k, v in row.items() if not k.startswith(("time/", "cost/")))) for row in rows]
    return hash(tuple(kept))


def _prompt_error(row: Mapping[str, Any], metric: str, config: Mapping[str, Any]) -> float | None:
    """Standard error over prompts: as recorded, or that of a share of so many prompts."""
    for name in (f"{metric}_standard_error", f"{metric}_se"):
        if is_number(row.get(name)):
            return float(row[name])
    value = row.get(metric)
    if metric == "eval/reward" or not is_number(value):
        return None
    shares = [name for name in PROBABILITY_SCORES if row.get(name) == value]
    evaluation = config.get("evaluation")
    if not shares or not isinstance(evaluation, Mapping):
        return None
    count = evaluation.get("num_prompts" if shares[0] == "eval/accuracy" else "num_pairs")
    if not is_number(count) or count < 2 or not 0 <= float(row[metric]) <= 1:
        return None
    return math.sqrt(float(row[metric]) * (1 - float(row[metric])) / (count - 1))


def _answers(record: RunRecord, metric: str) -> Array | None:
    """Scores per prompt at the last evaluation, if the run kept them (answers.jsonl: step, score = one number a prompt)."""
    if metric != "eval/score":
        return None
    rows = read_lines(record.directory, "answers.jsonl")
    values = rows[-1].get("score") if rows else None
    if not isinstance(values, list) or not values or not all(is_number(value) for value in values):
        return None
    return np.array(values, float)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys and plain values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def count_failures(runs: Sequence[RunScore], *, failed: str) -> list[RunScore]:
    """Runs with a score. Those that failed or did not finish get the lowest one of their task (`worst`) or drop out (`exclude`).

    The lowest one that any run on the task had at any evaluation, the one before training included.
    """
    lowest: dict[str, float] = {}
    for run in runs:
        seen = [value for value in (*run.values, run.score) if value is not None and is_usable(value)]
        if seen:
            lowest[run.task] = min([lowest.get(run.task, math.inf), *map(float, seen)])
    counted = []
    for run in runs:
        if run.state == "completed":
            counted.append(run)
        elif failed == "worst" and run.task in lowest:
            counted.append(replace(run, score=lowest[run.task], imputed=True))
    return counted


def _may_stop_early(config: Mapping[str, Any]) -> bool:
    return config.get("stop_at_score") is not None or config.get("max_seconds") is not None
