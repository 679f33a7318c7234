"""Tuned algorithms: the best score one may expect from a number of trials, so that more tuning does not look like more merit."""

from __future__ import annotations

import numpy as np

from rlx.comparison.statistics.interval import Array


def expected_best(scores: Array) -> Array:
    """Expected maximum of k trials drawn without replacement, for k = 1..N: unbiased (Tang et al. 2020, arXiv:2004.13705).

    scores: [..., N], one per trial; returns [..., N].
    """
    values = np.asarray(scores, float)
    return np.asarray(np.sort(values, axis=-1) @ _weights(values.shape[-1]).T)


def _weights(size: int) -> Array:
    """Chance that the i-th smallest of N trials is the best of k. Returns [k, i], both N long."""
    rows = [np.full(size, 1 / size)]
    for k in range(1, size):  # C(i, k) / C(N, k + 1) from C(i, k - 1) / C(N, k), i the number of smaller trials
        rows.append(rows[-1] * np.maximum(np.arange(size) - k + 1, 0) / k * (k + 1) / (size - k))
    return np.array(rows)


def expected_best_band(
    scores: Array, rng: np.random.Generator, *, level: float = 0.95, num_resamples: int = 500
) -> tuple[Array, Array]:
    """Pointwise bootstrap band of `expected_best`. scores: [N]; returns two [N]. Too narrow towards the largest k."""
    values = np.asarray(scores, float)
    draws = expected_best(values[rng.integers(len(values), size=(num_resamples, len(values)))])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high
