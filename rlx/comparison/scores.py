"""From run records to scores: one number a run, with what it cost and how sure it is. Reads records only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np

from rlx.comparison.metrics_log import KL, PROBABILITY_SCORES, read_log
from rlx.comparison.serializable import Serializable, is_number, is_usable, number_or, to_plain, usable_or_none
from rlx.comparison.statistics.bootstrap import area_under_curve
from rlx.comparison.statistics.interval import Array
from rlx.errors import DataError
from rlx.nested import leaves
from rlx.record.files import read_regular
from rlx.record.lines import parse_lines
from rlx.record.provenance import NOT_HASHED
from rlx.record.run import RunRecord

ANSWERED = ("eval/score", "eval/accuracy", "eval/greedy_reward", "eval/pair_accuracy")  # what answers.jsonl may hold
ROUNDING = 1e-5  # by which a score that somebody wrote out again may differ
# what cannot make one algorithm better than another: where a run writes, what it keeps, how it is cut into pieces
NOT_COMPARED = NOT_HASHED | {"task", "seed", "threads", "micro_batch", "device", "experiment"}


@dataclass(frozen=True)
class RunScore(Serializable):
    """One run as the comparison sees it.

    score: by the declared rule; None if the run has none. state: completed, failed, unfinished.
    steps, values: the learning curve [K]. step: the last that was evaluated. prompt_error: standard error over prompts.
    fingerprint: of all metrics, to tell runs that are one and the same. answers: scores per prompt [P] at the evaluation that
    the score is of; prompts: digest of these prompts, None in records of before; start, start_answers: score and answers before
    training. evaluated: the names of the metrics of its evaluations. variant, task: set by `grouping.group`.
    evaluation_seconds: of one evaluation; num_prompts: that it has.
    short: with a budget, what a completed run spent in all that ended before it, in the budget's unit; None: it reached it.
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
    prompts: str | None = None
    start: float | None = None
    start_answers: Array | None = None
    evaluation_seconds: float | None = None
    num_prompts: float | None = None
    evaluated: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    variant: str = ""
    task: str = ""
    imputed: bool = False
    short: float | None = None

    @property
    def seed(self) -> int:
        """Return the seed that the record names."""
        return self.record.seed

    @cached_property
    def compared(self) -> dict[str, Any]:
        """The part of its config in which variants may differ; the task has its own place."""
        return {key: value for key, value in self.config.items() if _is_compared(key)}

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
            "start",
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


@cache
def _is_compared(key: str) -> bool:
    return not {key, key.split(".")[0]} & NOT_COMPARED


def read_score(
    record: RunRecord, *, metric: str, score: str, lower_is_better: bool = False, at: tuple[str, float] | None = None
) -> RunScore:
    """What a run's record says about its score.

    at: unit (tokens, seconds, steps) and amount of a budget; the score is then that of the last evaluation within it.
    Raises DataError where the files of the record are damaged, or contradict each other.
    """
    log = read_log(record, metric)
    curve = dict(sorted(log.curve.items()))
    steps, values = np.array(list(curve), int), np.array(list(curve.values()), float)
    result = record.result
    metadata = result.metadata if result is not None and isinstance(result.metadata, Mapping) else {}
    stated = result.performance_metrics.get(metric) if result is not None else None
    ended = metadata.get("steps")
    contradiction = _contradiction(record, metric, steps, values, stated=stated, ended=ended)
    if contradiction is not None:
        raise DataError(f"{record.directory}: {contradiction}; one of the two was changed")
    reached = int(ended) if is_number(ended) else int(steps[-1]) if len(steps) else 0
    spent = log.spent
    tokens = [metadata[name] for name in ("tokens_sampled", "tokens_trained") if is_number(metadata.get(name))]
    total: dict[str, float | None] = {
        "tokens": float(sum(tokens)) if tokens else None,
        "seconds": usable_or_none(result.training_time) if result is not None else None,
        "steps": float(reached),
    }
    state, short = {"completed": "completed", "failed": "failed"}.get(record.status, "unfinished"), None
    if at is None:
        value, notes = _by_rule(
            score, values, stated, cut=is_number(ended) and (len(steps) == 0 or steps[-1] < ended), lower=lower_is_better
        )
    else:
        value, notes, state, steps, values, short = _within(
            at, steps, values, spent, state=state, score=score, lower=lower_is_better
        )
        total = {"tokens": _spent(spent, "tokens", steps), "seconds": _spent(spent, "seconds", steps), "steps": None}
        stated, reached = value, int(steps[-1]) if len(steps) else 0
    if state == "completed":
        is_empty, last_step = stated is None and len(values) == 0, reached if at is None else None
        state, note = _checked_state(value, record.config, metric=metric, is_empty=is_empty, reached=last_step)
        notes = (*notes, *note)
    evaluated = [row for row in log.evaluations if at is None or row["step"] <= reached]
    last = evaluated[-1] if evaluated else {}
    first = values[0] if len(steps) and steps[0] == 0 else math.nan
    chosen = _step_of(value, steps, values, score=score)
    answers, digests = _answers(record, metric, {0: float(first), chosen: value})
    return RunScore(
        record=record,
        config=leaves(record.config),
        score=value if value is not None and is_usable(value) else None,
        state=state,
        steps=steps,
        values=values,
        step=reached,
        area=area_under_curve(steps, values),
        kl=usable_or_none(last.get(KL, result.performance_metrics.get(KL) if result is not None else None)),
        tokens=total["tokens"],
        seconds=total["seconds"],
        prompt_error=_prompt_error(last, metric, record.config),
        fingerprint=log.fingerprint,
        answers=answers.get(chosen),
        prompts=digests.get(chosen),
        start=float(first) if math.isfinite(first) else None,
        start_answers=answers.get(0),
        evaluation_seconds=usable_or_none(last.get("time/evaluation_seconds")),
        num_prompts=_num_prompts(record.config),
        evaluated=log.names,
        notes=notes,
        short=short,
    )


def _contradiction(
    record: RunRecord, metric: str, steps: Array, values: Array, *, stated: Any, ended: Any
) -> str | None:  # fmt: skip
    """What two places of a record say differently, in words. stated, ended: score and last step by run.json."""
    trained = record.config.get("seed")
    if record.verb == "train" and is_number(trained) and trained != record.seed:
        return f"seed is {record.seed} in run.json, and {trained} in its config"
    if record.status == "completed" and record.error is not None:
        return "run.json says completed, and holds an error"
    if not is_number(ended) or len(steps) == 0:
        return None
    if record.status == "completed" and steps[-1] > ended:
        return f"run.json ends at step {ended}, metrics.jsonl holds {metric} of step {steps[-1]}"
    if not is_number(stated) or not is_usable(stated) or steps[-1] != ended:
        return None
    if not math.isclose(values[-1], stated, rel_tol=ROUNDING):
        return f"run.json ends with {metric} {stated:.6g}, metrics.jsonl with {values[-1]:.6g}"
    return None


def _checked_state(
    value: float | None, config: Mapping[str, Any], *, metric: str, is_empty: bool, reached: int | None
) -> tuple[str, tuple[str, ...]]:
    """The state of a run that says completed, and a note where that is not so. reached: its last step, None for a budget."""
    if value is None and is_empty:
        return "unfinished", (f"says completed, but holds no {metric}",)
    if value is None or not is_usable(value):
        return "failed", (f"{metric} is not finite",)
    if reached is not None and reached < number_or(config.get("num_steps"), 0) and not _may_stop_early(config):
        return "unfinished", (f"ends at step {reached} of {config.get('num_steps')}",)
    return "completed", ()


def _by_rule(score: str, values: Array, stated: Any, *, cut: bool, lower: bool) -> tuple[float | None, tuple[str, ...]]:
    """The score by the declared rule. Where metrics were cut, the result in the record stands for their end."""
    notes: tuple[str, ...] = ("metrics.jsonl ends before the run did",) if cut else ()
    last = float(stated) if is_number(stated) else float(values[-1]) if len(values) else None
    if score == "last":
        return last, notes
    candidates = [value for value in (*values, last) if value is not None]
    return (float((min if lower else max)(candidates)) if candidates else None), notes


def _spent(spent: Mapping[str, tuple[Array, Array]], unit: str, steps: Array) -> float | None:
    """What had been spent after the last of these steps."""
    known, amounts = spent[unit]
    within = amounts[known <= steps[-1]] if len(steps) and len(known) else amounts[:0]
    return float(within[-1]) if len(within) else None


def _within(
    at: tuple[str, float], steps: Array, values: Array, spent: Mapping[str, tuple[Array, Array]], *, state: str, score: str,
    lower: bool,
) -> tuple[float | None, tuple[str, ...], str, Array, Array, float | None]:  # fmt: skip
    """Score, notes, state and learning curve of a run cut to a budget, and what a run spent in all that ended before it."""
    unit, amount = at
    if unit == "steps":
        costs, end = steps.astype(float), float(steps[-1]) if len(steps) else 0.0
    else:
        known, amounts = spent[unit]
        places = np.searchsorted(known, steps, side="right") - 1
        costs = np.where(places >= 0, amounts[np.maximum(places, 0)] if len(amounts) else 0.0, 0.0)
        end = float(amounts[-1]) if len(amounts) else 0.0
    kept = costs <= amount
    steps, values = steps[kept], values[kept]
    value, _ = _by_rule(score, values, None, cut=False, lower=lower)
    if end < amount and state == "completed":
        return value, (), state, steps, values, end
    return value, (), "completed" if value is not None and end >= amount else state, steps, values, None


def _step_of(value: float | None, steps: Array, values: Array, *, score: str) -> int:
    """The step of the evaluation that the score is of."""
    if len(steps) == 0:
        return 0
    if score == "best" and value is not None and (values == value).any():
        return int(steps[int(np.argmax(values == value))])
    return int(steps[-1])


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


def _num_prompts(config: Mapping[str, Any]) -> float | None:
    evaluation = config.get("evaluation")
    return usable_or_none(evaluation.get("num_prompts")) if isinstance(evaluation, Mapping) else None


_STEP = re.compile(rb'\{"step": (-?\d+),')


def _answers(
    record: RunRecord, metric: str, scores: Mapping[int, float | None]
) -> tuple[dict[int, Array], dict[int, str | None]]:
    """Step -> scores per prompt [P] out of answers.jsonl, for the steps asked; left out where their mean is not the score.

    A line holds `step` and `score`, one number a prompt, and `prompts`, a digest of them, which comes second: step -> digest.
    Lines of other steps are not parsed.
    """
    if metric not in ANSWERED:
        return {}, {}
    file = record.directory / "answers.jsonl"
    try:
        lines = read_regular(file).split(b"\n")
    except FileNotFoundError:
        return {}, {}
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    wanted = [
        line
        for place, line in enumerate(lines)
        if (found := _STEP.match(line)) is None or int(found[1]) in scores
        if line.strip() and (place < len(lines) - 1 or line.endswith(b"}"))
    ]
    answers: dict[int, Array] = {}
    digests: dict[int, str | None] = {}
    for row in parse_lines(b"\n".join([*wanted, b""]), file):
        values, score = row.get("score"), scores.get(row["step"])
        if score is None or not isinstance(values, list) or not values:
            continue
        if set(map(type, values)) != {float} and not all(is_number(value) for value in values):
            continue
        array = np.array(values, float)
        if np.isfinite(array).all() and abs(float(array.mean()) - score) <= 1e-6 * max(1.0, abs(score)):
            answers[row["step"]] = array
            digests[row["step"]] = str(row["prompts"]) if "prompts" in row else None
    return answers, digests


def same_prompts(runs: Iterable[RunScore]) -> bool:
    """Whether no two runs are known to have answered different prompts: records of before do not tell which they were."""
    return len({run.prompts for run in runs} - {None}) <= 1


def count_failures(runs: Sequence[RunScore], *, failed: str, lower_is_better: bool = False) -> list[RunScore]:
    """Runs with a score. Those that failed or did not finish get the worst one of their task (`worst`) or drop out (`exclude`).

    The worst one that any run on the task had at any evaluation, the one before training included: the lowest, or the highest
    where lower is better.
    """
    worse = max if lower_is_better else min
    worst: dict[str, float] = {}
    for run in runs:
        seen = [float(value) for value in (*run.values, run.score) if value is not None and is_usable(value)]
        if seen:
            worst[run.task] = worse([*([worst[run.task]] if run.task in worst else []), *seen])
    counted = []
    for run in runs:
        if run.state == "completed":
            counted.append(run)
        elif failed == "worst" and run.task in worst:
            counted.append(replace(run, score=worst[run.task], imputed=True))
    return counted


def _may_stop_early(config: Mapping[str, Any]) -> bool:
    return config.get("stop_at_score") is not None or config.get("max_seconds") is not None
