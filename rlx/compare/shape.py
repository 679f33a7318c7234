"""Do scores over seeds look like the normal ones that the intervals assume? S seeds."""

from __future__ import annotations

import numpy as np

from rlx.compare.interval import Array, deviation


def describe_shape(scores: Array, *, alpha: float = 0.05) -> str | None:
    """'two groups', 'outlying low', 'outlying high', 'skewed', or None if nothing speaks against normal scores. scores: [S].

    By Shapiro and Wilk at `alpha`, the share of normal samples that are named too; below 5 scores nothing can be seen.
    """
    values = np.sort(np.asarray(scores, float))
    if len(values) < 5 or deviation(values) == 0:
        return None
    from scipy import stats  # a slow import that only this needs

    if stats.shapiro(values).pvalue >= alpha:
        return None
    gaps = np.diff(values)
    cut = int(gaps.argmax()) + 1
    if gaps.max() > 0.5 * np.ptp(values):
        if cut == 1:
            return "outlying low"
        return "outlying high" if cut == len(values) - 1 else "two groups"
    return "skewed"
