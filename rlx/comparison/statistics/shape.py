"""Do scores over seeds look like the normal ones that the intervals assume? S seeds."""

from __future__ import annotations

import numpy as np
from scipy import special

from rlx.comparison.statistics.interval import Array, deviation


def describe_shape(scores: Array, *, alpha: float = 0.05) -> str | None:
    """'two groups', 'outlying low', 'outlying high', 'skewed', or None if nothing speaks against normal scores. scores: [S].

    By Shapiro and Wilk at `alpha`, the share of normal samples that are named too; below 5 scores nothing can be seen.
    """
    values = np.sort(np.asarray(scores, float))
    if len(values) < 5 or deviation(values) == 0:
        return None
    if shapiro_wilk_p(values) >= alpha:
        return None
    gaps = np.diff(values)
    cut = int(gaps.argmax()) + 1
    if gaps.max() > 0.5 * np.ptp(values):
        if cut == 1:
            return "outlying low"
        return "outlying high" if cut == len(values) - 1 else "two groups"
    return "skewed"


def shapiro_wilk_p(scores: Array) -> float:
    """p of Shapiro and Wilk's test in Royston's approximation (1995, AS R94), for 4 scores or more. scores: [S].

    Written out here because importing scipy.stats would take most of the time of a comparison.
    """
    values = np.sort(np.asarray(scores, float))
    size = len(values)
    normal = special.ndtri((np.arange(1, size + 1) - 0.375) / (size + 0.25))
    total, u = float(normal @ normal), size**-0.5
    last = np.polyval([-2.706056, 4.434685, -2.07119, -0.147981, 0.221157, normal[-1] / total**0.5], u)
    weights = normal.copy()
    if size > 5:
        next_to_last = np.polyval([-3.582633, 5.682633, -1.752461, -0.293762, 0.042981, normal[-2] / total**0.5], u)
        weights /= np.sqrt((total - 2 * normal[-1] ** 2 - 2 * normal[-2] ** 2) / (1 - 2 * last**2 - 2 * next_to_last**2))
        weights[1], weights[-2] = -next_to_last, next_to_last
    else:
        weights /= np.sqrt((total - 2 * normal[-1] ** 2) / (1 - 2 * last**2))
    weights[0], weights[-1] = -last, last
    centred = values - values.mean()
    rest = max(1 - float(weights @ centred) ** 2 / float(centred @ centred), 1e-300)  # 1 - W
    if size <= 11:
        reach = 0.459 * size - 2.273 - np.log(rest)
        if reach <= 0:
            return 0.0
        found = -np.log(reach)
        mean = np.polyval([-0.0006714, 0.025054, -0.39978, 0.544], size)
        spread = np.exp(np.polyval([-0.0020322, 0.062767, -0.77857, 1.3822], size))
    else:
        found, large = np.log(rest), np.log(size)
        mean = np.polyval([0.0038915, -0.083751, -0.31082, -1.5861], large)
        spread = np.exp(np.polyval([0.0030302, -0.082676, -0.4803], large))
    return float(special.ndtr((mean - found) / spread))
