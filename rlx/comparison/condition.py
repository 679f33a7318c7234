"""`fail_if`: a condition on a verdict that fails a build, such as "hybrid < custom_dpo"."""

from __future__ import annotations

from rlx.comparison.comparison import Comparison
from rlx.comparison.grouping import find_label
from rlx.comparison.verdict import FEWEST
from rlx.errors import ConfigError, EvidenceError

MEANING = {"<": "worse", ">": "better", "==": "equivalent"}


def failing_verdict(condition: str, comparison: Comparison) -> str | None:
    """The sentence of the pair if its verdict is what the condition names, else None. Refused below 5 seeds.

    `a < b`: a is worse than b. `a > b`: a is better. `a == b`: they are equivalent within the margin.
    """
    sign = next((sign for sign in ("==", "<", ">") if f" {sign} " in condition or condition.count(sign) == 1), None)
    if sign is None or condition.count(sign) != 1 or _is_other_sign(condition, sign):
        raise ConfigError(
            f"fail_if={condition!r}: write 'a < b' (a worse than b), 'a > b' or 'a == b', with the labels of two variants"
        )
    names = [part.strip() for part in condition.split(sign)]
    labels = [variant.label for variant in comparison.variants]
    if not all(names):
        raise ConfigError(f"fail_if={condition!r}: a variant's label must stand on both sides of {sign}: {'; '.join(labels)}")
    a, b = (find_label(name, labels, key="fail_if") for name in names)
    if a == b:
        raise ConfigError(f"fail_if={condition!r}: both sides are {a}")
    if sign == "==" and comparison.choices.margin is None:
        raise ConfigError(f"fail_if={condition!r}: equivalence needs a margin, margin=0.02 say")
    pair = comparison.pair(a, b)
    least = min(pair.n_a, pair.n_b)
    if least < FEWEST:
        few = "1 seed carries" if least == 1 else f"{least} seeds carry"
        raise EvidenceError(f"fail_if={condition!r}: {few} no verdict; run at least {FEWEST} of {a} and of {b}")
    return pair.words if pair.verdict == MEANING[sign] else None


def _is_other_sign(condition: str, sign: str) -> bool:
    """Whether the sign is a part of a longer one that means nothing here: <=, =>, ->."""
    before, _, after = condition.partition(sign)
    return before.endswith(("=", "!", "-", "<", ">")) or after.startswith(("=", "-", "<", ">"))
