"""Differences over seeds and prompts together: the crossed random-effects model. S seeds, P prompts, M tasks.

All runs of a task answer the same prompts, so scores form a table [S, P] for each algorithm. A score is the sum of a prompt's
difficulty (shared by both algorithms), the algorithm's effect on that prompt (`interaction`), the run's effect (`seed`) and a
residual of the single answer. A difference of means therefore has the variance

    residual + seed + interaction,  where for one task
    residual    = sum over both algorithms of MS_residual / (S P)
    seed        = sum over both algorithms of variance of run means / S           - residual, at least 0
    interaction = variance over prompts of (prompt mean of a - prompt mean of b) / P  - residual, at least 0

with Satterthwaite's degrees of freedom from the mean squares involved. `rlx guide statistics` has the error rates of this test,
of Welch's t over seeds alone, and of a bootstrap over both. Miller 2024 (arXiv:2411.00640) covers prompts alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import special

from rlx.comparison.statistics.difference import MAX_SEEDS, POWER, TestResult, power, student_t
from rlx.comparison.statistics.interval import Array, t_quantile

Tables = Sequence[np.ndarray]
MAX_PROMPTS = 10_000_000
_NODES = 256  # sample points of the variance estimates over which power is averaged


@dataclass(frozen=True)
class Components:
    """Variance components of two algorithms on one task, in squared units of the score.

    seed, residual: of a and of b; for pairs of runs: of the differences, and 0. seeds: S of a and of b. prompt: of the prompts'
    difficulty, which cancels in a difference. interaction: over prompts, of the expected difference a - b on a prompt.
    """

    seed: tuple[float, float]
    residual: tuple[float, float]
    prompt: float
    interaction: float
    seeds: tuple[int, int]
    prompts: int


@dataclass(frozen=True)
class Halving:
    """What halves the interval of a difference: more seeds, more prompts, or both times `factor`; None: impossible."""

    seeds: int | None
    prompts: int | None
    factor: float | None


def crossed_variance(a: Array, b: Array, *, pairs: bool = False) -> tuple[Array, Array, Array]:
    """Difference of means, its variance over seeds and prompts, and its degrees of freedom. Leading axes are repetitions.

    a: [..., S, P]; b: [..., S', P]; returns three [...]. pairs: run i of a and run i of b share their seed.
    """
    tables = [np.asarray(a, float) - np.asarray(b, float)] if pairs else [np.asarray(a, float), np.asarray(b, float)]
    prompts = tables[0].shape[-1]
    seeds = [table.shape[-2] for table in tables]
    rows = [table.mean(axis=-1) for table in tables]
    columns = [table.mean(axis=-2) for table in tables]
    gap = columns[0] if pairs else columns[0] - columns[1]
    over_seeds = [row.var(axis=-1, ddof=1) / size for row, size in zip(rows, seeds, strict=True)]
    over_prompts = gap.var(axis=-1, ddof=1) / prompts
    rest = [
        _residual(table, row, column) / (size * prompts)
        for table, row, column, size in zip(tables, rows, columns, seeds, strict=True)
    ]
    return gap.mean(axis=-1), *_combine(over_seeds, over_prompts, rest, seeds=seeds, prompts=prompts)


def _residual(table: Array, rows: Array, columns: Array) -> Array:
    """Residual mean square after removing row and column means. table: [..., S, P]; returns [...]."""
    size, prompts = table.shape[-2:]
    centre = rows.mean(axis=-1)
    total = ((table - centre[..., None, None]) ** 2).sum(axis=(-2, -1))
    explained = prompts * ((rows - centre[..., None]) ** 2).sum(axis=-1) + size * ((columns - centre[..., None]) ** 2).sum(
        axis=-1
    )
    left = np.where(total - explained <= 1e-12 * total, 0.0, total - explained)
    return np.asarray(left / ((size - 1) * (prompts - 1)))


def _combine(
    over_seeds: Sequence[Array], over_prompts: Array, rest: Sequence[Array], *, seeds: Sequence[float], prompts: float
) -> tuple[Array, Array]:
    """Variance and degrees of freedom from the observed (or expected) variances of the three kinds of means."""
    by_seed, residual = np.asarray(sum(over_seeds)), np.asarray(sum(rest))
    seed, interaction = np.maximum(by_seed - residual, 0), np.maximum(over_prompts - residual, 0)
    variance = residual + seed + interaction
    squares_seed = sum(part**2 / (size - 1) for part, size in zip(over_seeds, seeds, strict=True))
    squares_prompt = over_prompts**2 / (prompts - 1)
    squares_rest = sum(part**2 / ((size - 1) * (prompts - 1)) for part, size in zip(rest, seeds, strict=True))
    squares = np.where(seed > 0, squares_seed, 0) + np.where(interaction > 0, squares_prompt, 0)
    squares = squares + np.where((seed > 0) == (interaction > 0), squares_rest, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return variance, np.where(squares > 0, variance**2 / squares, 1.0)


def crossed(a: Tables, b: Tables, *, level: float = 0.95, pairs: bool = False) -> TestResult:
    """t test of the difference of means over seeds and prompts; with several tasks, of the mean over tasks.

    a, b: one table [S_m, P_m] per task, of the same prompts. pairs: the rows of both tables share their seeds.
    """
    found = [crossed_variance(x, y, pairs=pairs) for x, y in zip(a, b, strict=True)]
    gaps, variances, freedom = (np.array(each, float) for each in zip(*found, strict=True))
    total = float(variances.sum())
    df = float(freedom.sum()) if total == 0 else total**2 / float((variances**2 / freedom).sum())
    name = "crossed t" if len(a) == 1 else "stratified crossed t"
    return student_t(name, float(gaps.mean()), float(np.sqrt(total)) / len(a), df, level=level)


def components(a: Array, b: Array, *, pairs: bool = False) -> Components:
    """The variance components behind a difference on one task. a: [S, P]; b: [S', P]."""
    arms = [np.asarray(a, float) - np.asarray(b, float)] if pairs else [np.asarray(a, float), np.asarray(b, float)]
    prompts = arms[0].shape[1]
    residual = [float(_residual(table, table.mean(axis=1), table.mean(axis=0))) for table in arms]
    seed = [max(float(table.mean(axis=1).var(ddof=1)) - rest / prompts, 0.0) for table, rest in zip(arms, residual, strict=True)]
    columns = np.array([np.asarray(table, float).mean(axis=0) for table in (a, b)])
    noise = sum(rest / len(table) for rest, table in zip(residual, arms, strict=True))
    return Components(
        seed=(seed[0], seed[1] if len(seed) > 1 else 0.0),
        residual=(residual[0], residual[1] if len(residual) > 1 else 0.0),
        prompt=max(float(np.cov(columns)[0, 1]), 0.0),
        interaction=max(float((columns[0] - columns[1]).var(ddof=1)) - noise, 0.0),
        seeds=(len(a), len(b)),
        prompts=prompts,
    )


def expected_error(
    parts: Sequence[Components], *, seeds: tuple[float, float] | None = None, prompts_factor: float = 1.0
) -> tuple[float, float]:
    """Expected standard error of the difference, and its degrees of freedom, for other numbers of seeds and prompts.

    parts: one per task. seeds: of a and of b on every task; None: as observed. prompts_factor: factor of every task's prompts.
    """
    total = squares = 0.0
    for part in parts:
        sizes = [max(float(size), 2.0) for size in (seeds or part.seeds)]
        variance, square = _expected(part, sizes, max(part.prompts * prompts_factor, 2.0))
        total, squares = total + variance, squares + square
    return math.sqrt(total) / len(parts), total**2 / squares if squares > 0 else 1.0


def _expected(part: Components, sizes: Sequence[float], prompts: float) -> tuple[float, float]:
    """Variance on one task, and the divisor of its square in Satterthwaite's rule; like `_combine`, from the components."""
    variance = squares_seed = squares_rest = residual = 0.0
    for seed, rest, size in zip(part.seed, part.residual, sizes, strict=True):
        noise = rest / (size * prompts)
        residual += noise
        variance += seed / size + noise
        squares_seed += (seed / size + noise) ** 2 / (size - 1)
        squares_rest += noise**2 / ((size - 1) * (prompts - 1))
    interaction = part.interaction / prompts
    has_seed, has_interaction = max(part.seed) > 0, interaction > 0
    squares = squares_seed if has_seed else 0.0
    if has_interaction:
        squares += (interaction + residual) ** 2 / (prompts - 1)
    return variance + interaction, squares + (squares_rest if has_seed == has_interaction else 0.0)


def crossed_power(
    difference: float,
    parts: Sequence[Components],
    *,
    alpha: float = 0.05,
    seeds: tuple[int, int] | None = None,
    prompts_factor: float = 1.0,
) -> float:
    """Power of the crossed test for `difference`, with other numbers of seeds and prompts as in `expected_error`.

    The test estimates the components, which vary and are never negative, so its power is lower than with known components.
    """
    nodes = _normal_nodes(3 * len(parts))
    true, estimated, squares = 0.0, np.zeros(_NODES), np.zeros(_NODES)
    for place, part in enumerate(parts):
        sizes, prompts = seeds or part.seeds, max(part.prompts * prompts_factor, 2.0)
        rest = [value / (size * prompts) for value, size in zip(part.residual, sizes, strict=True)]
        over_seeds = [seed / size + noise for seed, noise, size in zip(part.seed, rest, sizes, strict=True)]
        over_prompts = part.interaction / prompts + sum(rest)
        true += sum(over_seeds) + over_prompts - sum(rest)
        drawn = [
            mean * _mean_square(z, size - 1)
            for mean, z, size in zip((*over_seeds, over_prompts), nodes[3 * place :], (*sizes, prompts), strict=False)
        ]
        variance, freedom = _combine(drawn[:2], drawn[2], [np.asarray(noise) for noise in rest], seeds=sizes, prompts=prompts)
        estimated, squares = estimated + variance, squares + variance**2 / freedom
    if true == 0:
        return 0.0
    border = _t_border(estimated**2 / squares, alpha) * np.sqrt(estimated / true)
    shift = abs(difference) * len(parts) / math.sqrt(true)  # true: of the sum over tasks
    return float((special.ndtr(shift - border) + special.ndtr(-shift - border)).mean())


@lru_cache
def _normal_nodes(dimensions: int) -> Array:
    """Standard normal values [D, N] that fill space evenly: Roberts' additive sequence (2018), the same at every call."""
    root = 2.0
    for _ in range(60):
        root = (1 + root) ** (1 / (dimensions + 1))
    steps = root ** -np.arange(1.0, dimensions + 1)
    return np.asarray(special.ndtri((0.5 + steps[:, None] * np.arange(1, _NODES + 1)) % 1))


def _mean_square(normal: Array, df: float) -> Array:
    """Chi-squared values over their degrees of freedom, by Wilson and Hilferty's cube of normal ones."""
    share = 2 / (9 * df)
    return np.asarray(np.maximum(1 - share + normal * math.sqrt(share), 1e-3) ** 3)


def _t_border(df: Array, alpha: float) -> Array:
    """The critical value of |t| at `alpha`, for many degrees of freedom, from a table over their inverse."""
    inverse, borders = _t_borders(alpha)
    return np.asarray(np.interp(1 / np.maximum(df, 1.0), inverse, borders))


@lru_cache
def _t_borders(alpha: float) -> tuple[Array, Array]:
    inverse = np.linspace(1e-6, 1.0, 400) ** 1.5
    return inverse, np.asarray(special.stdtrit(1 / inverse, 1 - alpha / 2))


def crossed_seeds_needed(
    difference: float, parts: Sequence[Components], *, alpha: float = 0.05, widen: float = 1.0
) -> int | None:
    """Seeds of each algorithm that find `difference` on this many prompts with probability POWER; None: no number does.

    widen: factor of the seed and residual components, for a cautious answer.
    """
    wider = [_widened(part, widen) for part in parts]

    def roughly(size: int) -> bool:
        error, df = expected_error(wider, seeds=(size, size))
        return error > 0 and power(difference, error=error, df=df, alpha=alpha) >= POWER

    def enough(size: int) -> bool:
        return crossed_power(difference, wider, alpha=alpha, seeds=(size, size)) >= POWER

    first = None if difference == 0 else _smallest(roughly, 2, MAX_SEEDS)
    return None if first is None else _smallest(enough, first, MAX_SEEDS)


def prompts_needed(difference: float, parts: Sequence[Components], *, alpha: float = 0.05) -> int | None:
    """Prompts of each task that find `difference` with this many seeds with probability POWER; None: no number does."""
    before = parts[0].prompts

    def roughly(size: int) -> bool:
        error, df = expected_error(parts, prompts_factor=size / before)
        return error > 0 and power(difference, error=error, df=df, alpha=alpha) >= POWER

    def enough(size: int) -> bool:
        return crossed_power(difference, parts, alpha=alpha, prompts_factor=size / before) >= POWER

    first = None if difference == 0 else _smallest(roughly, 2, MAX_PROMPTS)
    return None if first is None else _smallest(enough, first, MAX_PROMPTS)


def halve_interval(parts: Sequence[Components], *, level: float = 0.95) -> Halving:
    """What would halve the interval of the difference. Seeds are of each algorithm, prompts of the first task."""
    error, df = expected_error(parts)
    goal = t_quantile(df, level) * error / 2
    observed, first = parts[0].seeds, parts[0].prompts

    def narrow(factor_seeds: float, factor_prompts: float) -> bool:
        sizes = (observed[0] * factor_seeds, observed[1] * factor_seeds)
        error, df = expected_error(parts, seeds=sizes, prompts_factor=factor_prompts)
        return t_quantile(df, level) * error <= goal

    least = min(observed)
    seeds = _smallest(lambda size: narrow(size / least, 1.0), least, MAX_SEEDS)
    prompts = _smallest(lambda size: narrow(1.0, size / first), first, MAX_PROMPTS)
    both = _smallest(lambda tenths: narrow(tenths / 10, tenths / 10), 10, 10_000)
    return Halving(seeds, prompts, None if both is None else both / 10)


def _widened(part: Components, widen: float) -> Components:
    seed = (part.seed[0] * widen, part.seed[1] * widen)
    residual = (part.residual[0] * widen, part.residual[1] * widen)
    return Components(seed, residual, part.prompt, part.interaction, part.seeds, part.prompts)


def _smallest(enough: Callable[[int], bool], least: int, most: int) -> int | None:
    """The smallest integer from `least` on for which `enough` holds, which is monotone; None if it fails for `most`."""
    if enough(least):
        return least
    low, step = least, 1
    while not enough(high := min(low + step, most)):
        if high >= most:
            return None
        low, step = high, step * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def prompt_covariance(tables: Sequence[Array]) -> Array:
    """Covariance [K, K] of the algorithms' means due to the choice of prompts; for ranks. tables: K of [S_k, P]."""
    columns = np.array([np.asarray(table, float).mean(axis=0) for table in tables])
    prompts = columns.shape[1]
    noise = [
        float(_residual(np.asarray(table, float), table.mean(axis=1), table.mean(axis=0))) / len(table) if len(table) > 1 else 0.0
        for table in tables
    ]
    values, vectors = np.linalg.eigh(np.cov(columns) - np.diag(noise))
    return np.asarray(vectors @ np.diag(np.maximum(values, 0)) @ vectors.T / prompts)
