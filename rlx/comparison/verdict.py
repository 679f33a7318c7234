"""The verdict of each pair, adjusted for all pairs of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rlx.comparison.choices import FEWEST
from rlx.comparison.pair import PairComparison
from rlx.comparison.statistics.difference import holm
from rlx.comparison.wording import verdict_sentence


def judge(pairs: Sequence[PairComparison], *, total: int | None = None) -> list[PairComparison]:
    """The verdict of each pair: Holm's adjustment over all differences, and over all equivalences.

    total: the number of pairs that there might have been, where only some were compared.

    Two algorithms whose scores have equal distributions are called better or worse in at most 6 % of comparisons. Algorithms of
    equal means but unlike shapes are so more often: `rlx guide statistics` says how often, and which other questions to ask.
    """
    differ = holm([pair.p for pair in pairs], total=total)
    agree = holm([pair.p_equivalent for pair in pairs], total=total)
    judged = []
    for pair, p, same in zip(pairs, differ, agree, strict=True):
        pair = replace(pair, p_adjusted=p, p_equivalent=same)
        verdict = _verdict(pair)
        judged.append(replace(pair, verdict=verdict, words=verdict_sentence(replace(pair, verdict=verdict))))
    return judged


def _verdict(pair: PairComparison) -> str:
    alpha = 1 - pair.level
    if min(pair.n_a, pair.n_b) < FEWEST:
        return "exploratory"
    if pair.p_equivalent is not None and pair.p_equivalent < alpha:
        return "equivalent"
    gap = pair.probability_of_improvement - 0.5 if pair.question == "chance" else pair.difference
    if pair.p_adjusted is not None and pair.p_adjusted < alpha and gap != 0:
        is_higher = gap > 0
        return "better" if is_higher == (pair.question == "chance" or not pair.lower_is_better) else "worse"
    return "inconclusive"


def swapped(pair: PairComparison) -> PairComparison:
    """The same pair with a and b exchanged."""
    opposite = {"better": "worse", "worse": "better"}
    effect, chance = pair.effect_size_interval, pair.probability_of_improvement_interval
    new = replace(
        pair,
        a=pair.b,
        b=pair.a,
        n_a=pair.n_b,
        n_b=pair.n_a,
        difference=-pair.difference,
        low=-pair.high,
        high=-pair.low,
        statistic=None if pair.statistic is None else -pair.statistic,
        effect_size=None if pair.effect_size is None else -pair.effect_size,
        effect_size_interval=None if effect is None else replace(effect, low=-effect.high, high=-effect.low),
        probability_of_improvement=1 - pair.probability_of_improvement,
        probability_of_improvement_interval=None if chance is None else replace(chance, low=1 - chance.high, high=1 - chance.low),
        components=None
        if pair.components is None
        else tuple(
            replace(part, seed=part.seed[::-1], residual=part.residual[::-1], seeds=part.seeds[::-1]) for part in pair.components
        ),
        verdict=opposite.get(pair.verdict, pair.verdict),
    )
    return replace(new, words=verdict_sentence(new))
