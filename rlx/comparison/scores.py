"""From run records to scores: one number per run, with its cost and standard error. Reads only records."""

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
from rlx.record.files import parse_lines, read_regular
from rlx.record.provenance import NOT_HASHED
from rlx.record.run import RunRecord

# the keys of answers.jsonl
ANSWERED = ("eval/score", "eval/accuracy", "eval/greedy_reward", "eval/pair_accuracy", "eval/log_likelihood")
ROUNDING = 1e-5  # largest deviation of a score that was rounded when rewritten
# keys that cannot make one algorithm better than another: output paths, what is kept, micro-batch sizes
NOT_COMPARED = NOT_HASHED | {"task", "seed", "threads", "micro_batch", "device", "experiment"}


@dataclass(frozen=True)
class RunScore(Serializable):
    """One run in a comparison.

    score: by the declared rule; None if the run has none. state: completed, failed, unfinished.
    steps, values: the learning curve [K]. step: the last evaluated one. prompt_error: standard error over prompts.
    fingerprint: of all metrics, to recognise identical runs. answers: scores per prompt [P] at the evaluation of the score;
    prompts: digest of these prompts, None in older records; start, start_answers: score and answers before training.
    evaluated: the names of the metrics of its evaluations. variant, task: set by `grouping.group`.
    evaluation_seconds: per evaluation; num_prompts: per evaluation.
    short: the total spent by a completed run that ended before the budget, in the budget's unit; None: it reached the budget.
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
        """The recorded seed."""
        return self.record.seed

    @cached_property
    def compared(self) -> dict[str, Any]:
        """The part of its config in which variants may differ; the task is separate."""
        return {key: value for key, value in self.config.items() if _is_compared(key)}

    @property
    def stops_early(self) -> bool:
        """Whether it ended before the number of steps in its config."""
        return self.step < number_or(self.config.get("num_steps"), 0)

    def to_dict(self) -> dict[str, Any]:
        """The values for comparison.json; its curve is stored with its variant's."""
        kept = ("variant", "task", "seed", "state", "score", "start", "imputed", "step", "tokens", "seconds", "kl")
        names = (*kept, "prompt_error", "notes")
        record = self.record
        about = {"id": record.id, "directory": str(record.directory), "status": record.status, "config_hash": record.config_hash}
        return {**about, **{name: to_plain(getattr(self, name)) for name in names}, "error": to_plain(record.error)}

    @property
    def facts(self) -> dict[str, Any]:
        """The facts for `where`: the keys of the config and the record."""
        names = ("algorithm", "task", "variant", "seed", "status", "id", "started")
        about = {name: getattr(self.record, name) for name in names}
        return {**self.config, **about, "score": self.score, "state": self.state, "steps": self.step}


@cache
def _is_compared(key: str) -> bool:
    return not {key, key.split(".")[0]} & NOT_COMPARED


def read_score(
    record: RunRecord, *, metric: str, score: str, lower_is_better: bool = False, at: tuple[str, float] | None = None
) -> RunScore:
    """Read a run's score and related facts from its record.

    at: unit (tokens, seconds, steps) and amount of a budget; the score is then that of the last evaluation within it.
    Raises DataError if the files of the record are damaged, or contradict each other.
    """
    log = read_log(record, metric)
    by_step = dict(sorted(log.curve.items()))
    curve = _Curve(np.array(list(by_step), int), np.array(list(by_step.values()), float))
    stated, ended = _stated(record, metric), _metadata(record).get("steps")
    contradiction = _contradiction(record, metric, curve, stated=stated, ended=ended)
    if contradiction is not None:
        raise DataError(f"{record.directory}: {contradiction}; one of the two was changed")
    rule = _Rule(score, lower_is_better)
    state = record.status if record.status in ("completed", "failed") else "unfinished"
    if at is None:
        outcome = _at_the_end(record, curve, rule, state, stated=stated, ended=ended)
    else:
        outcome = _within(at, curve, rule, state, log.spent)
    curve, value = outcome.curve, outcome.value
    if outcome.state == "completed":
        state, note = _checked_state(outcome, record.config, metric=metric, whole=at is None)
        outcome = replace(outcome, state=state, notes=(*outcome.notes, *note))
    evaluated = [row for row in log.evaluations if at is None or row["step"] <= outcome.reached]
    last = evaluated[-1] if evaluated else {}
    first = curve.values[0] if len(curve.steps) and curve.steps[0] == 0 else math.nan
    chosen = rule.step_of(value, curve)
    answers, digests = _answers(record, metric, {0: float(first), chosen: value})
    return RunScore(
        record=record,
        config=leaves(record.config),
        score=value if value is not None and is_usable(value) else None,
        state=outcome.state,
        steps=curve.steps,
        values=curve.values,
        step=outcome.reached,
        area=area_under_curve(curve.steps, curve.values),
        kl=usable_or_none(last.get(KL, _stated(record, KL))),
        tokens=outcome.tokens,
        seconds=outcome.seconds,
        prompt_error=_prompt_error(last, metric, record.config),
        fingerprint=log.fingerprint,
        answers=answers.get(chosen),
        prompts=digests.get(chosen),
        start=float(first) if math.isfinite(first) else None,
        start_answers=answers.get(0),
        evaluation_seconds=usable_or_none(last.get("time/evaluation_seconds")),
        num_prompts=_num_prompts(record.config),
        evaluated=log.names,
        notes=outcome.notes,
        short=outcome.short,
    )


@dataclass(frozen=True)
class _Curve:
    """Evaluations of one run: steps, ascending, and values [K]."""

    steps: Array
    values: Array

    @property
    def end(self) -> int:
        """The last evaluated step; 0 if there is none."""
        return int(self.steps[-1]) if len(self.steps) else 0


@dataclass(frozen=True)
class _Rule:
    """The rule that selects the evaluation of a score. score: last or best. lower: whether the lowest is the best."""

    score: str
    lower: bool

    def value(self, curve: _Curve, stated: Any = None) -> float | None:
        """The score. stated: the value at the run's end in run.json, used if the metrics are truncated."""
        last = float(stated) if is_number(stated) else float(curve.values[-1]) if len(curve.values) else None
        if self.score == "last":
            return last
        candidates = [value for value in (*curve.values, last) if value is not None]
        return float((min if self.lower else max)(candidates)) if candidates else None

    def step_of(self, value: float | None, curve: _Curve) -> int:
        """The step of the evaluation of a score."""
        is_there = curve.values == value
        return int(curve.steps[int(np.argmax(is_there))]) if self.score == "best" and is_there.any() else curve.end


@dataclass(frozen=True)
class _Outcome:
    """The state of a run at its end, or when a budget was spent. reached: its last step. is_empty: it has no score at all.

    tokens, seconds: the cost up to there. short: the total cost if the run ended before the budget, in the budget's unit.
    """

    value: float | None
    state: str
    curve: _Curve
    reached: int
    tokens: float | None
    seconds: float | None
    is_empty: bool
    notes: tuple[str, ...] = ()
    short: float | None = None


def _metadata(record: RunRecord) -> Mapping[str, Any]:
    result = record.result
    return result.metadata if result is not None and isinstance(result.metadata, Mapping) else {}


def _stated(record: RunRecord, metric: str) -> Any:
    """A metric at the run's end, from run.json."""
    return None if record.result is None else record.result.performance_metrics.get(metric)


def _at_the_end(record: RunRecord, curve: _Curve, rule: _Rule, state: str, *, stated: Any, ended: Any) -> _Outcome:
    """The outcome of the whole run."""
    metadata = _metadata(record)
    tokens = [metadata[name] for name in ("tokens_sampled", "tokens_trained") if is_number(metadata.get(name))]
    is_cut = is_number(ended) and (len(curve.steps) == 0 or curve.end < ended)
    return _Outcome(
        rule.value(curve, stated),
        state,
        curve,
        reached=int(ended) if is_number(ended) else curve.end,
        tokens=float(sum(tokens)) if tokens else None,
        seconds=None if record.result is None else usable_or_none(record.result.training_time),
        is_empty=stated is None and len(curve.values) == 0,
        notes=("metrics.jsonl ends before the run did",) if is_cut else (),
    )


def _within(at: tuple[str, float], curve: _Curve, rule: _Rule, state: str, spent: Mapping[str, tuple[Array, Array]]) -> _Outcome:
    """The outcome of the run within a budget."""
    unit, amount = at
    if unit == "steps":
        costs, end = curve.steps.astype(float), float(curve.end)
    else:
        known, amounts = spent[unit]
        places = np.searchsorted(known, curve.steps, side="right") - 1
        costs = np.where(places >= 0, amounts[np.maximum(places, 0)] if len(amounts) else 0.0, 0.0)
        end = float(amounts[-1]) if len(amounts) else 0.0
    kept = costs <= amount
    curve = _Curve(curve.steps[kept], curve.values[kept])
    value, is_short = rule.value(curve), end < amount and state == "completed"
    return _Outcome(
        value,
        "completed" if value is not None and end >= amount else state,
        curve,
        reached=curve.end,
        tokens=_spent(spent, "tokens", curve.steps),
        seconds=_spent(spent, "seconds", curve.steps),
        is_empty=value is None and len(curve.values) == 0,
        short=end if is_short else None,
    )


def _contradiction(record: RunRecord, metric: str, curve: _Curve, *, stated: Any, ended: Any) -> str | None:
    """A contradiction between two parts of a record, as text. stated, ended: score and last step in run.json."""
    trained = record.config.get("seed")
    if record.verb == "train" and is_number(trained) and trained != record.seed:
        return f"seed is {record.seed} in run.json, and {trained} in its config"
    if record.status == "completed" and record.error is not None:
        return "run.json says completed, and holds an error"
    if not is_number(ended) or len(curve.steps) == 0:
        return None
    if record.status == "completed" and curve.end > ended:
        return f"run.json ends at step {ended}, metrics.jsonl holds {metric} of step {curve.end}"
    if not is_number(stated) or not is_usable(stated) or curve.end != ended:
        return None
    if not math.isclose(curve.values[-1], stated, rel_tol=ROUNDING):
        return f"run.json ends with {metric} {stated:.6g}, metrics.jsonl with {curve.values[-1]:.6g}"
    return None


def _checked_state(outcome: _Outcome, config: Mapping[str, Any], *, metric: str, whole: bool) -> tuple[str, tuple[str, ...]]:
    """The state of a run recorded as completed, and a note if that is wrong. whole: not limited by a budget."""
    if outcome.value is None and outcome.is_empty:
        return "unfinished", (f"says completed, but holds no {metric}",)
    if outcome.value is None or not is_usable(outcome.value):
        return "failed", (f"{metric} is not finite",)
    if whole and outcome.reached < number_or(config.get("num_steps"), 0) and not _may_stop_early(config):
        return "unfinished", (f"ends at step {outcome.reached} of {config.get('num_steps')}",)
    return "completed", ()


def _spent(spent: Mapping[str, tuple[Array, Array]], unit: str, steps: Array) -> float | None:
    """The amount spent after the last of these steps."""
    known, amounts = spent[unit]
    within = amounts[known <= steps[-1]] if len(steps) and len(known) else amounts[:0]
    return float(within[-1]) if len(within) else None


def _prompt_error(row: Mapping[str, Any], metric: str, config: Mapping[str, Any]) -> float | None:
    """Standard error over prompts: as recorded, or that of a proportion over this many prompts."""
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
    """Step -> scores per prompt [P] from answers.jsonl, for the given steps; left out if their mean is not the score.

    A line contains `step`, `score` with one number per prompt, and `prompts`, their digest, returned second: step -> digest.
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
    """False if two runs are known to have answered different prompts; older records do not show their prompts."""
    return len({run.prompts for run in runs} - {None}) <= 1


def count_failures(runs: Sequence[RunScore], *, failed: str, lower_is_better: bool = False) -> list[RunScore]:
    """Runs with a score. Failed or unfinished ones get the worst score of their task (`worst`) or are dropped (`exclude`).

    The worst score is over all runs on the task and all evaluations, including the one before training: the lowest, or the
    highest if lower is better.
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
