"""Simulated answers of two algorithms that are equal over prompts, for error rates of the crossed test. S seeds, P prompts."""

from __future__ import annotations

import numpy as np
from scipy import special

from rlx.comparison.statistics.crossed import crossed_variance

KINDS = ("binary", "real", "skewed")
CHUNK = 4_000_000  # numbers held at once


def two_sided_p(statistic, df):
    """p of Student's t, for many repetitions at once."""
    return 2 * special.stdtr(df, -np.abs(statistic))


def answers(rng, kind, *, seeds, prompts, interaction, repetitions, seed_spread=0.1, gap=0.0, centre=0.8, prompt_spread=1.5):
    """Two arrays [R, S, P]. All spreads and `gap` are in logits; binary: right or wrong; real: plus normal noise of 1; skewed:
    its exponential. interaction: spread of each algorithm's own effect on a prompt."""
    difficulty = centre + rng.normal(0, prompt_spread, (repetitions, 1, prompts))
    found = []
    for size, shift in zip(seeds, (gap, 0.0), strict=True):
        logits = difficulty + shift + rng.normal(0, interaction, (repetitions, 1, prompts))
        logits = logits + rng.normal(0, seed_spread, (repetitions, size, 1))
        if kind == "binary":
            found.append((rng.random((repetitions, size, prompts)) < special.expit(logits)).astype(np.float32))
        elif kind == "real":
            found.append(logits + rng.normal(0, 1, (repetitions, size, prompts)))
        else:
            found.append(np.exp(0.5 * (logits - centre) + rng.normal(0, 0.5, (repetitions, size, prompts))))
    return found


def crossed_p(a, b):
    """p of the crossed test. a, b: [R, S, P]; returns [R]."""
    gap, variance, df = crossed_variance(a, b)
    return np.where(variance > 0, two_sided_p(gap / np.sqrt(np.maximum(variance, 1e-300)), df), 1.0)


def welch_p(a, b):
    """p of Welch's t over seeds alone. a, b: [R, S, P]; returns [R]."""
    rows = [np.asarray(table, float).mean(axis=-1) for table in (a, b)]
    parts = [row.var(axis=-1, ddof=1) / row.shape[-1] for row in rows]
    total = np.maximum(sum(parts), 1e-300)
    squares = sum(part**2 / (row.shape[-1] - 1) for part, row in zip(parts, rows, strict=True))
    df = np.where(squares > 0, total**2 / np.maximum(squares, 1e-300), 1.0)
    return np.where(sum(parts) > 0, two_sided_p((rows[0].mean(-1) - rows[1].mean(-1)) / np.sqrt(total), df), 1.0)


def bootstrap_excludes_zero(a, b, rng, *, num_resamples=400):
    """Whether the percentile interval of a bootstrap over seeds and prompts excludes 0. a, b: [R, S, P]; returns [R]."""
    draws = np.empty((num_resamples, len(a)))
    for index in range(num_resamples):
        prompts = rng.integers(a.shape[2], size=a.shape[2])
        sides = [
            table[:, rng.integers(table.shape[1], size=table.shape[1])].mean(axis=1)[:, prompts].mean(axis=1) for table in (a, b)
        ]
        draws[index] = sides[0] - sides[1]
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return (low > 0) | (high < 0)


def error_rates(rng, kind, *, seeds, prompts, interaction, repetitions, **options):
    """Shares of repetitions with p < 0.05: of the crossed test and of Welch's, over as many draws as are asked for."""
    hits, done = np.zeros(2), 0
    step = max(1, CHUNK // (max(seeds) * prompts))
    while done < repetitions:
        size = min(step, repetitions - done)
        a, b = answers(rng, kind, seeds=seeds, prompts=prompts, interaction=interaction, repetitions=size, **options)
        hits += [(crossed_p(a, b) < 0.05).sum(), (welch_p(a, b) < 0.05).sum()]
        done += size
    return hits / repetitions
