"""Training curves of every logged metric, over steps, tokens or seconds. Reads the metrics of runs; K points, S seeds."""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rlx.comparison.scores import RunScore
from rlx.comparison.serializable import is_number
from rlx.comparison.statistics.bootstrap import band, bootstrap_interval, row_iqm
from rlx.comparison.statistics.interval import Array, iqm, iqm_interval
from rlx.errors import DataError
from rlx.record.files import each_metrics

_KEPT = 8192  # values kept per metric of a run; must be even. A figure has a few hundred points
OVER = ("step", "tokens", "seconds")  # the possible x axes of a curve
_FIRST = (  # the metrics shown first; the others follow by name
    *("train/loss", "eval/kl", "train/kl", "eval/entropy", "train/entropy", "train/reward_mean", "eval/reward"),
    *("eval/completion_length", "train/completion_length", "train/clip_fraction_low", "train/clip_fraction_high"),
    *("train/margin", "train/accuracy", "train/grad_norm"),
)


@dataclass(frozen=True)
class RunLog:
    """The log of one run. positions: for each of OVER, the value at each kept line [K] (tokens sampled and trained, seconds of
    training without evaluations); metrics: name -> (indices into positions, values)."""

    run: RunScore
    positions: dict[str, Array]
    metrics: dict[str, tuple[Array, Array]]

    def curve(self, metric: str, over: str) -> tuple[Array, Array]:
        """Positions and values [K] of a metric; empty if the run did not log it."""
        lines, values = self.metrics.get(metric, (np.zeros(0, int), np.zeros(0)))
        return self.positions[over][lines], values


@dataclass(frozen=True)
class MetricCurve:
    """A metric of one variant on a common grid [K]. mean, low, high [K]: over completed runs, NaN once one of them has ended.

    runs: (seed, values [K]), NaN outside of a run's own range.
    """

    metric: str
    over: str
    variant: str
    grid: Array
    mean: Array
    low: Array
    high: Array
    runs: tuple[tuple[int, Array], ...]


def read_logs(runs: Iterable[RunScore]) -> list[RunLog]:
    """The logs of the runs; runs whose metrics cannot be read are left out."""
    logs = []
    for run in runs:
        try:
            logs.append(_read_log(run))
        except DataError:
            continue
    return logs


class _Column:
    """The values of one metric in at most `_KEPT` numbers: when full, neighbours are merged into their mean."""

    def __init__(self) -> None:
        self.lines, self.values = array("q"), array("d")
        self._size = 1  # values merged into one number
        self._begin, self._total, self._count = 0, 0.0, 0  # of the incomplete block
        self._last = (0, 0.0)

    def add(self, line: int, value: float) -> None:
        """Add a value, logged in this line."""
        if self._count == 0:
            self._begin = line
        self._total, self._count, self._last = self._total + value, self._count + 1, (line, value)
        if self._count < self._size:
            return
        self._end_block()
        if len(self.values) == _KEPT:
            pairs = np.array(self.values).reshape(-1, 2).mean(axis=1)
            self.lines, self.values, self._size = self.lines[::2], array("d", pairs.tolist()), self._size * 2

    def arrays(self) -> tuple[Array, Array]:
        """Lines and values [K]. Merged values have the line of the first; the last value is not merged."""
        if self._count > 0:
            self._end_block()
        if self.lines[-1] != self._last[0]:
            self.lines.append(self._last[0])
            self.values.append(self._last[1])
        return np.array(self.lines), np.array(self.values)

    def _end_block(self) -> None:
        self.lines.append(self._begin)
        self.values.append(self._total / self._count)
        self._total, self._count = 0.0, 0


def _read_log(run: RunScore) -> RunLog:
    """Read the metrics of a run line by line. For a metric with many values, means of neighbours are kept."""
    columns: dict[str, _Column] = {}
    tokens = seconds = 0.0
    steps, spent, passed = array("d"), array("d"), array("d")
    for line, row in enumerate(each_metrics(run.record.directory)):
        costs = [row[name] for name in ("cost/tokens_sampled", "cost/tokens_trained") if is_number(row.get(name))]
        times = [row[name] for name in ("time/draw_seconds", "time/update_seconds") if is_number(row.get(name))]
        tokens, seconds = sum(costs) if costs else tokens, seconds + sum(times)
        steps.append(row["step"])
        spent.append(tokens)
        passed.append(seconds)
        for name, value in row.items():
            if name.startswith(("train/", "eval/")) and not name.endswith("_standard_error") and is_number(value):
                columns.setdefault(name, _Column()).add(line, float(value) if abs(value) < 1e100 else np.nan)
    found = {name: column.arrays() for name, column in columns.items()}
    used = np.unique(np.concatenate([[len(steps) - 1] if steps else [], *(lines for lines, _ in found.values())]).astype(int))
    positions = {"step": np.array(steps)[used], "tokens": np.array(spent)[used], "seconds": np.array(passed)[used]}
    return RunLog(run, positions, {name: (np.searchsorted(used, lines), values) for name, (lines, values) in found.items()})


def metrics_to_draw(logs: Sequence[RunLog]) -> list[str]:
    """The metrics to draw, the most important first, without constant ones and duplicates."""
    names = list(dict.fromkeys(name for log in logs for name in log.metrics))
    names.sort(key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))
    kept: list[str] = []
    seen: set[bytes] = set()
    for name in names:
        curves = [log.curve(name, "step") for log in logs]
        values = np.concatenate([values for _, values in curves])
        finite = values[np.isfinite(values)]
        print_of = b"".join(part.tobytes() for curve in curves for part in curve)
        if max(len(values) for _, values in curves) > 1 and len(finite) and np.ptp(finite) > 0 and print_of not in seen:
            kept.append(name)
            seen.add(print_of)
    return kept


def has_positions(logs: Sequence[RunLog], over: str) -> bool:
    """Whether the runs recorded these positions; older records may lack tokens or times."""
    return any(len(log.positions[over]) and float(np.max(log.positions[over])) > 0 for log in logs)


def metric_curves(logs: Sequence[RunLog], metric: str, over: str, *, points: int, level: float) -> list[MetricCurve]:
    """The metric of each variant on one grid of at most `points`; variants that did not log it are left out."""
    found = {id(log): log.curve(metric, over) for log in logs}
    grid = _grid([positions for positions, _ in found.values() if len(positions)], points)
    curves = []
    for variant in dict.fromkeys(log.run.variant for log in logs):
        mine = [log for log in logs if log.run.variant == variant and len(found[id(log)][0])]
        if not mine:
            continue
        rows = np.array([resampled(*found[id(log)], grid) for log in mine])
        whole = np.array([log.run.state == "completed" for log in mine])
        used = rows[whole] if whole.any() else rows
        mean, low, high = band(used, level=level)
        ended = ~np.isfinite(used).all(axis=0)  # the mean of the remaining runs would jump where others end
        for part in (mean, low, high):
            part[ended] = np.nan
        runs = tuple((log.run.seed, row) for log, row in zip(mine, rows, strict=True))
        curves.append(MetricCurve(metric, over, variant, grid, mean, low, high, runs))
    return curves


def iqm_curves(
    logs: Sequence[RunLog],
    metric: str,
    over: str,
    *,
    tasks: Sequence[str],
    points: int,
    level: float,
    rng: np.random.Generator,
    num_resamples: int,
) -> list[MetricCurve]:
    """Sample efficiency: the interquartile mean over runs and tasks of each variant's score, with its interval, on one grid.

    Runs are resampled within each task; with one task the interval is that of the table. Empty below two seeds per task.
    """
    logs = [log for log in logs if log.run.state == "completed" and metric in log.metrics]
    found = {id(log): log.curve(metric, over) for log in logs}
    grid = _grid([positions for positions, _ in found.values()], points)
    curves = []
    for variant in dict.fromkeys(log.run.variant for log in logs):
        strata = [
            np.array([resampled(*found[id(log)], grid) for log in logs if (log.run.variant, log.run.task) == (variant, task)])
            for task in tasks
        ]
        if min(map(len, strata)) < 2:
            continue
        centre, low, high = (np.full(len(grid), np.nan) for _ in range(3))
        for place in np.flatnonzero(np.all([np.isfinite(rows).all(axis=0) for rows in strata], axis=0)):
            here = [rows[:, place] for rows in strata]
            centre[place] = iqm(np.concatenate(here))
            if len(here) == 1:
                interval = iqm_interval(here[0], level=level)
            else:
                interval = bootstrap_interval(here, row_iqm, rng, level=level, num_resamples=num_resamples)
            low[place], high[place] = interval.low, interval.high
        curves.append(MetricCurve(metric, over, variant, grid, centre, low, high, ()))
    return curves


def _grid(positions: Sequence[Array], points: int) -> Array:
    """All positions if there are few, else `points` from the first to the last."""
    every = np.unique(np.concatenate(positions)) if positions else np.zeros(0)
    return every if len(every) <= points else np.linspace(every[0], every[-1], points)


def resampled(xs: Array, ys: Array, grid: Array) -> Array:
    """A curve at the points of a grid [K], NaN outside of its range: means around each point if it has many more points than
    the grid, else interpolated."""
    if len(grid) > 1 and len(xs) > 1.5 * len(grid):
        edges = (grid[1:] + grid[:-1]) / 2
        bins = np.searchsorted(edges, xs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # empty bins are NaN, and filled below
            means = np.bincount(bins, ys, len(grid)) / np.bincount(bins, minlength=len(grid))
        known = np.isfinite(means)
        xs, ys = grid[known], means[known]
        if len(xs) == 0:
            return np.full(len(grid), np.nan)
    inside = (grid >= xs[0] - 1e-9 * abs(xs[0])) & (grid <= xs[-1] + 1e-9 * abs(xs[-1]))
    return np.where(inside, np.interp(grid, xs, ys), np.nan)
