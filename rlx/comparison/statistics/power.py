"""How much a number of seeds can show: power, the smallest difference it could have found, the seeds that one needs.

All for Welch's t (or the paired t) at a two-sided level, by the noncentral t distribution. With several comparisons the
level to hand over is alpha / number of comparisons, so that what is promised holds for the strictest step of Holm's rule.
"""

from __future__ import annotations

import math

from scipy import special

MAX_SEEDS = 100_000


def power(difference: float, *, error: float, df: float, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test finds `difference` when its standard error is `error` with `df` degrees of freedom."""
    critical = float(special.stdtrit(df, 1 - alpha / 2))
    shift = abs(difference) / error
    if shift > critical + 30:  # far beyond any doubt, where nctdtr loses its digits
        return 1.0
    upper = special.nctdtr(df, shift, critical)
    lower = special.nctdtr(df, shift, -critical)
    return float(1 - upper + (0.0 if math.isnan(lower) else lower))


def detectable_difference(*, error: float, df: float, alpha: float = 0.05, target: float = 0.8) -> float:
    """The smallest true difference that a test with this standard error finds with probability `target`."""
    if error == 0:
        return 0.0
    critical = float(special.stdtrit(df, 1 - alpha / 2))
    return float(special.nctdtrinc(df, 1 - target, critical)) * error  # the far tail adds nothing that could be seen


def seeds_needed(difference: float, *, deviations: tuple[float, float], alpha: float = 0.05, target: float = 0.8) -> int | None:
    """Seeds per algorithm that find `difference` with probability `target`; None if there is none to find, or no end to it.

    deviations: standard deviations of the two arms over seeds (Welch). For a paired test: (deviation of the differences, 0).
    """
    a, b = (value**2 for value in deviations)
    if difference == 0 or a + b == 0:
        return None

    def enough(size: int) -> bool:
        df = (size - 1) * (a + b) ** 2 / (a**2 + b**2)
        return power(difference, error=math.sqrt((a + b) / size), df=df, alpha=alpha) >= target

    quantiles = float(special.ndtri(1 - alpha / 2) + special.ndtri(target))
    guess = (quantiles / difference) ** 2 * (a + b)
    if guess > MAX_SEEDS:
        return None
    size = max(2, int(guess))
    while not enough(size):
        size += 1
    while size > 2 and enough(size - 1):
        size -= 1
    return size
