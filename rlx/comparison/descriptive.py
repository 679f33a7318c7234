"""Descriptive statistics beside the verdicts: learning curves, swept keys, expected best scores, profiles, config differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlx.comparison.grouping import Grouping, short_names, swept_keys
from rlx.comparison.pair import Arm
from rlx.comparison.scores import RunScore, same_prompts
from rlx.comparison.serializable import Serializable, is_number, usable_or_none
from rlx.comparison.statistics.bootstrap import align, band, expected_best, expected_best_band, performance_profile, profile_band
from rlx.comparison.statistics.interval import Array, Interval, mean_interval
from rlx.comparison.statistics.rank import RankTest, friedman
from rlx.errors import DataError
from rlx.record.files import read_completions, read_samples


@dataclass(frozen=True)
class Curve(Serializable):
    """The learning curve of a variant on a task. runs: (seed, steps [K], values [K]); mean and band use completed runs only."""

    variant: str
    task: str
    steps: Array
    mean: Array
    low: Array
    high: Array
    runs: tuple[tuple[int, Array, Array], ...]


@dataclass(frozen=True)
class SettingScore(Serializable):
    """The score at one value of a swept hyperparameter, over seeds; averaged over other swept keys."""

    key: str
    name: str
    algorithm: str
    value: Any
    n: int
    mean: float
    interval: Interval | None


@dataclass(frozen=True)
class TuningCurve(Serializable):
    """Expected best score of an algorithm against the number of settings tried. tokens: mean cost of a trial.

    algorithm: its name, and the classes that distinguish it from other searches (dpo loss=ipo).
    """

    algorithm: str
    trials: int
    expected: Array
    low: Array
    high: Array
    tokens: float | None
    seconds: float | None


@dataclass(frozen=True)
class Profile(Serializable):
    """Share of runs above each threshold, averaged over tasks, with a pointwise band."""

    variant: str
    thresholds: Array
    share: Array
    low: Array
    high: Array


def curves_of(runs: Sequence[RunScore], *, level: float) -> list[Curve]:
    """The learning curve of each variant and task that has one."""
    found = []
    grouped: dict[tuple[str, str], list[RunScore]] = {}
    for run in runs:
        if len(run.steps):
            grouped.setdefault((run.variant, run.task), []).append(run)
    for (variant, task), mine in grouped.items():
        whole = [run for run in mine if run.state == "completed"] or mine  # the mean would jump where failed runs end
        steps, values = align([(run.steps, run.values) for run in whole])
        centre, low, high = band(values, level=level)
        found.append(Curve(variant, task, steps, centre, low, high, tuple((run.seed, run.steps, run.values) for run in mine)))
    return found


def _by_algorithm(runs: Sequence[RunScore]) -> dict[str, list[RunScore]]:
    found: dict[str, list[RunScore]] = {}
    for run in runs:
        found.setdefault(run.record.algorithm, []).append(run)
    return found


def _swept(runs: Sequence[RunScore]) -> tuple[list[str], list[dict[str, Any]]]:
    """The keys that were swept over these runs, and the compared part of each run's config."""
    configs = [run.compared for run in runs]
    return swept_keys(configs, (text for run in runs for text in run.record.overrides)), configs


def setting_scores(counted: Sequence[RunScore], *, level: float) -> list[SettingScore]:
    """For each algorithm and swept key, the score at each of its values, one number per seed."""
    found = []
    for algorithm, mine in _by_algorithm(counted).items():
        keys, configs = _swept(mine)
        names = short_names(keys)
        for key in keys:
            values = {repr(config.get(key)): config.get(key) for config in configs}
            by_value: dict[str, dict[int, list[float]]] = {}
            for run, config in zip(mine, configs, strict=True):
                if run.score is not None:
                    by_value.setdefault(repr(config.get(key)), {}).setdefault(run.seed, []).append(run.score)
            for text, value in sorted(values.items(), key=lambda item: _order(item[1])):
                scores = np.array([np.mean(each) for each in by_value[text].values()])
                interval = mean_interval([scores], level=level) if len(scores) > 1 else None
                found.append(SettingScore(key, names[key], algorithm, value, len(scores), float(scores.mean()), interval))
    return found


def _order(value: Any) -> tuple[int, float, str]:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return (0, float(value), "") if is_number else (1, 0.0, str(value))


def tuning_curves(
    counted: Sequence[RunScore], rng: np.random.Generator, *, level: float, lower_is_better: bool = False
) -> list[TuningCurve]:
    """For each algorithm with three or more settings of its swept keys: a trial is a setting, its score the mean over seeds.

    Runs of different classes (such as three losses) are not one search: each combination of classes has its own curve.
    """
    sign = -1 if lower_is_better else 1
    searches: dict[tuple[str, tuple[tuple[str, str], ...]], list[RunScore]] = {}
    for run in counted:
        classes = tuple(sorted((key, str(value)) for key, value in run.compared.items() if key.endswith("_target_")))
        searches.setdefault((run.record.algorithm, classes), []).append(run)
    found = []
    for (algorithm, classes), mine in searches.items():
        others = [dict(other) for name, other in searches if name == algorithm]
        differ = [(key, value) for key, value in classes if any(other.get(key) != value for other in others)]
        label = " ".join([algorithm, *(f"{key.removesuffix('._target_')}={name.rpartition('.')[2]}" for key, name in differ)])
        keys, configs = _swept(mine)
        trials: dict[str, list[RunScore]] = {}
        for run, config in zip(mine, configs, strict=True):
            trials.setdefault(repr([config.get(key) for key in keys]), []).append(run)
        if len(trials) < 3:
            continue
        scores = sign * np.array([np.mean([run.score for run in runs if run.score is not None]) for runs in trials.values()])
        low, high = expected_best_band(scores, rng, level=level)
        low, high = (low, high) if sign == 1 else (-high, -low)
        tokens = [sum(run.tokens or 0 for run in runs) for runs in trials.values()]
        seconds = [sum(run.seconds or 0 for run in runs) for runs in trials.values()]
        cost = [float(np.mean(values)) or None for values in (tokens, seconds)]
        found.append(TuningCurve(label, len(scores), sign * expected_best(scores), low, high, cost[0], cost[1]))
    return found


def profiles_of(arms: Sequence[Arm], rng: np.random.Generator, *, level: float) -> list[Profile]:
    """Performance profiles on one grid of thresholds; single tasks have them too."""
    every = np.concatenate([scores for arm in arms for scores in arm.scores])
    room = max(float(np.ptp(every)) * 0.05, 1e-6)
    thresholds = np.linspace(every.min() - room, every.max() + room, 101)
    found = []
    for arm in arms:
        low, high = profile_band(arm.scores, thresholds, rng, level=level)
        found.append(Profile(arm.label, thresholds, performance_profile(arm.scores, thresholds), low, high))
    return found


def ranks_of(arms: Sequence[Arm], *, alpha: float, lower_is_better: bool = False) -> RankTest | None:
    """Friedman's test over tasks, if there are enough tasks and algorithms."""
    if len(arms) < 3 or len(arms[0].scores) < 2:
        return None
    sign = -1 if lower_is_better else 1
    return friedman(np.array([[sign * float(np.mean(scores)) for scores in arm.scores] for arm in arms]).T, alpha=alpha)


def prompt_difference(a: Sequence[RunScore], b: Sequence[RunScore]) -> tuple[float, float] | None:
    """Difference a - b and its standard error over prompts, paired by prompt, if the runs of both answered the same prompts.

    It describes these runs, not the algorithms, as seeds are averaged before prompts are counted.
    """
    sides = _prompt_means(a, b)
    if sides is None or len(sides[0]) < 2:
        return None
    gap = sides[0] - sides[1]
    return float(gap.mean()), float(gap.std(ddof=1) / np.sqrt(len(gap)))


def _prompt_means(a: Sequence[RunScore], b: Sequence[RunScore]) -> tuple[Array, Array] | None:
    """For a and b the mean score over runs of each prompt [P]; None if the runs did not all answer the same prompts.

    None also for several tasks.
    """
    sides = []
    for runs in (a, b):
        mine = [run for run in runs if not run.imputed]
        answers = [run.answers for run in mine if run.answers is not None]
        if not answers or len(answers) < len(mine):
            return None
        sides.append(answers)
    alike = len({len(one) for answers in sides for one in answers}) == 1 and len({run.task for run in (*a, *b)}) == 1
    if not alike or not same_prompts((*a, *b)):
        return None
    return np.asarray(np.mean(sides[0], axis=0)), np.asarray(np.mean(sides[1], axis=0))


def config_differences(grouping: Grouping) -> dict[str, dict[str, list[Any]]]:
    """Config key -> variant -> its values, for every key in which any two runs differ."""
    configs = [
        (run.variant, {**run.compared, **{k: v for k, v in run.config.items() if k.startswith("task.")}}) for run in grouping.runs
    ]
    keys = dict.fromkeys(key for _, config in configs for key in config)
    found: dict[str, dict[str, list[Any]]] = {}
    for key in keys:
        values: dict[str, list[Any]] = {}
        for label, config in configs:
            seen = values.setdefault(label, [])
            if key in config and config[key] not in seen:
                seen.append(config[key])
        if len({repr(seen) for seen in values.values()}) > 1 or any(len(seen) > 1 for seen in values.values()):
            found[key] = values
    return found


# The importance of each swept key: the share of the scores' variance that it explains, and how far it moves the mean.


_MOST_LEVELS = 8  # a numeric key with more values was sampled: its range is split into quarters


@dataclass(frozen=True)
class KeyImportance(Serializable):
    """A swept key of an algorithm.

    share: the share of the variance of all runs' scores that the key explains by itself (omega squared, 0 to 1); the rest is
    due to other keys, interactions and seeds. sensitivity: highest minus lowest mean score over its values, or over the
    quarters of its range. levels: the number of those means. runs: the number of scores.
    """

    algorithm: str
    key: str
    name: str
    share: float
    sensitivity: float
    levels: int
    runs: int


def importances(counted: Sequence[RunScore]) -> list[KeyImportance]:
    """For each algorithm with two or more swept keys, its keys, the most important first."""
    found = []
    for algorithm, mine in _by_algorithm([run for run in counted if run.score is not None]).items():
        keys, configs = _swept(mine)
        if len(keys) < 2:
            continue
        names, scores = short_names(keys), np.array([run.score for run in mine], float)
        rows = []
        for key in keys:
            groups = _groups([config[key] for config in configs], scores)
            means = [float(group.mean()) for group in groups]
            share = _omega_squared(groups)
            rows.append(KeyImportance(algorithm, key, names[key], share, max(means) - min(means), len(groups), len(scores)))
        found += sorted(rows, key=lambda row: -row.share)
    return found


def _groups(values: Sequence[Any], scores: Array) -> list[Array]:
    """Scores by the value of a key, or by quarters of its range if it has many numeric values."""
    kinds: Mapping[str, Any] = {repr(value): value for value in values}
    if len(kinds) > _MOST_LEVELS and all(is_number(value) for value in kinds.values()):
        edges = np.quantile(np.array(values, float), (0.25, 0.5, 0.75))
        places = np.searchsorted(edges, np.array(values, float))
        return [scores[places == place] for place in np.unique(places)]
    return [scores[[repr(value) == kind for value in values]] for kind in kinds]


def _omega_squared(groups: Sequence[Array]) -> float:
    """The share of variance between groups, corrected for chance; 0 if nothing varies.

    Hays, Statistics for Psychologists (1963): (SS_between - (k - 1) MS_within) / (SS_total + MS_within).
    """
    everything = np.concatenate(groups)
    total = float(((everything - everything.mean()) ** 2).sum())
    within = float(sum(((group - group.mean()) ** 2).sum() for group in groups))
    freedom = len(everything) - len(groups)
    if total == 0 or freedom <= 0:
        return 0.0
    noise = within / freedom
    return max(0.0, (total - within - (len(groups) - 1) * noise) / (total + noise))


# Prompts that one variant wins and loses against another, with the completions of both. P prompts.


@dataclass(frozen=True)
class Said(Serializable):
    """A completion of one run at its last evaluation. score: its contribution to the score; None: not recorded."""

    completion: Any
    seed: int
    step: int
    score: float | None


@dataclass(frozen=True)
class PromptResult(Serializable):
    """One held-out prompt or pair. place: its index. score_a, score_b: means over seeds. said_a, said_b: one completion of
    each variant."""

    place: int
    score_a: float
    score_b: float
    prompt: Any
    said_a: Said
    said_b: Said

    @property
    def difference(self) -> float:
        """Return the difference of the scores, a minus b."""
        return self.score_a - self.score_b


@dataclass(frozen=True)
class PromptContest(Serializable):
    """a against b. won, lost, tied: numbers of prompts. told: prompts with the completions of both, most clearly won first."""

    a: str
    b: str
    won: int
    lost: int
    tied: int
    told: tuple[PromptResult, ...]


def contest(a: str, b: str, counted: Sequence[RunScore], *, lower_is_better: bool = False) -> PromptContest | None:
    """The prompts that variant a wins and loses against b; None if answers are missing or the prompts differ."""
    mine, others = ([run for run in counted if run.variant == label] for label in (a, b))
    means = _prompt_means(mine, others)
    if means is None:
        return None
    difference = (means[1] - means[0]) if lower_is_better else (means[0] - means[1])
    told = []
    for place, ((prompt, ours), (other, theirs)) in enumerate(zip(_kept(mine), _kept(others), strict=False)):
        if place < len(difference) and prompt == other:
            told.append(PromptResult(place, float(means[0][place]), float(means[1][place]), prompt, ours, theirs))
    told.sort(key=lambda result: float(difference[result.place]), reverse=True)
    won, lost = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return PromptContest(a, b, won, lost, len(difference) - won - lost, tuple(told))


def _kept(runs: Sequence[RunScore]) -> list[tuple[Any, Said]]:
    """Prompts and completions of the last evaluation, from the lowest seed that stored them, in the order of the answers.

    Older records contain only the completions of the first prompts, among their samples; for a task of pairs they are left out,
    as the record does not show which pairs a prompt belongs to.
    """
    for run in sorted(runs, key=lambda run: run.seed):
        try:
            rows = read_completions(run.record.directory)
            if not rows:
                rows = [row for row in read_samples(run.record.directory) if "completion" in row and "reward" in row]
        except DataError:
            continue
        last = max((row["step"] for row in rows), default=0)
        if rows:
            return [
                (row.get("prompt"), Said(row.get("completion"), run.seed, row["step"], usable_or_none(row.get("score"))))
                for row in rows
                if row["step"] == last
            ]
    return []
