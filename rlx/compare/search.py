"""Tuned algorithms: the best score one may expect from a number of trials, so that more tuning does not look like more merit."""

from __future__ import annotations

import numpy as np

from rlx.compare.interval import Array


def expected_best(scores: Array) -> Array:
    """Expected maximum of k trials drawn without replacement, for k = 1..N: unbiased (Tang et al. 2020, arXiv:2004.13705).

    scores: [N], one per trial; returns [N].
    """
    ordered = np.sort(np.asarray(scores, float))
    size = len(ordered)
    found = np.empty(size)
    weights = np.full(size, 1 / size)  # chance that the i-th smallest is the best of k; k = 1
    for k in range(1, size + 1):
        found[k - 1] = weights @ ordered
        if k < size:  # C(i, k) / C(N, k + 1) from C(i, k - 1) / C(N, k), i the number of smaller trials
            weights = weights * np.maximum(np.arange(size) - k + 1, 0) / k * (k + 1) / (size - k)
    return found


def expected_best_band(
    scores: Array, rng: np.random.Generator, *, level: float = 0.95, num_resamples: int = 500
) -> tuple[Array, Array]:
    """Pointwise bootstrap band of `expected_best`. scores: [N]; returns two [N]. Too narrow towards the largest k."""
    values = np.asarray(scores, float)
    draws = np.array([expected_best(values[rng.integers(len(values), size=len(values))]) for _ in range(num_resamples)])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2], axis=0)
    return low, high
