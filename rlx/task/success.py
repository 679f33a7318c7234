"""The share of prompts that are solved in k tries."""

from __future__ import annotations

import math

from rlx.errors import ConfigError


def pass_at_k(num_right: int, num_samples: int, k: int) -> float:
    """The unbiased estimate of the probability that one of k completions is right, where `num_right` of `num_samples` are.

    1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv:2107.03374). Example: pass_at_k(1, 4, 2) == 0.5.
    """
    if not 1 <= k <= num_samples or not 0 <= num_right <= num_samples:
        raise ConfigError(f"pass@{k} cannot be estimated from {num_right} right of {num_samples} completions")
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)
