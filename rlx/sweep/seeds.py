"""Which variants have no chance to be the best, judged by the seeds that they have run so far."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

_THRESHOLD = 0.2  # p below which a variant is given up: with 3 seeds, all worse, it is 0.125
FEWEST = 4  # seeds of a variant, of which the last can be spared


def is_beaten(scores: Mapping[int, float], best: Mapping[int, float]) -> bool:
    """Whether scores (by seed) are below those of the best variant on the same seeds: a one-sided Wilcoxon signed-rank test."""
    from scipy.stats import wilcoxon

    differences = [scores[seed] - best[seed] for seed in scores if seed in best]
    if not any(differences):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties and zeros make the p approximate, which is enough here
        return bool(wilcoxon(differences, alternative="less").pvalue < _THRESHOLD)
