"""Verdicts as sentences: the result, its certainty, and what would settle it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlx.comparison.choices import FEWEST

if TYPE_CHECKING:
    from rlx.comparison.pair import PairComparison
    from rlx.comparison.variant import Variant

VERDICTS = ("better", "worse", "equivalent", "inconclusive", "exploratory")


def score_text(value: float | None, *, signed: bool = False) -> str:
    """A score, difference or effect with three decimals, more if it is small, fewer if it is large."""
    if value is None or value != value:
        return "-"
    size = abs(value)
    digits = 3 if size >= 0.0095 or size == 0 else 4 if size >= 0.00095 else 6
    text = f"{value:{'+' if signed else ''}.{0 if size >= 1000 else 1 if size >= 100 else digits}f}"
    return text.replace("+0.000", "0.000") if value == 0 else text


def probability(p: float | None) -> str:
    """A p value: three decimals, never 0."""
    if p is None:
        return "none"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def quantity(number: int, noun: str) -> str:
    """A number with its noun: `1 variant`, `3 variants`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def span(low: float, high: float) -> str:
    """An interval as `[low, high]`, with signs."""
    return f"[{score_text(low, signed=True)}, {score_text(high, signed=True)}]"


def verdict_sentence(pair: PairComparison) -> str:
    """The verdict of a pair as one or two sentences."""
    if pair.verdict in ("better", "worse"):
        sure = f"adjusted p {probability(pair.p_adjusted)}, {scope(pair)}"
        if pair.question == "chance":
            found = pair.probability_of_improvement_interval
            between = f", {_level(pair)} [{100 * found.low:.0f} %, {100 * found.high:.0f} %]" if found is not None else ""
            share = f"a run of it is better in {100 * pair.probability_of_improvement:.0f} % of cases{between}"
            return f"{pair.a} is {pair.verdict} than {pair.b}: {share} ({sure})."
        less = ", less is better" if pair.lower_is_better else ""
        return (
            f"{pair.a} is {pair.verdict} than {pair.b} by {score_text(abs(pair.difference))} "
            f"({_level(pair)} of the difference {span(pair.low, pair.high)}{less}, {sure})."
        )
    if pair.identical:
        return f"{pair.a} and {pair.b}: identical runs. The setting that differs has no effect here."
    if pair.verdict == "equivalent":
        real = pair.p_adjusted is not None and pair.p_adjusted < 1 - pair.level
        less = " There is a difference, but it is within the margin that was declared not to matter." if real else ""
        return f"{pair.a} and {pair.b} are equivalent: they differ by less than the margin of {score_text(pair.margin)}.{less}"
    if pair.n_a < 2 or pair.n_b < 2:
        return f"{pair.a} and {pair.b} differ by {score_text(pair.difference, signed=True)}, but a single run is not evidence."
    if pair.verdict == "exploratory":
        seen = f"difference {score_text(pair.difference, signed=True)} {span(pair.low, pair.high)}"
        few = f"with {min(pair.n_a, pair.n_b)} seeds this is exploratory"
        return f"{pair.a} against {pair.b}: {seen}, adjusted p {probability(pair.p_adjusted)}; {few}. {_prospect(pair)}".rstrip()
    if pair.p is None:
        return f"No verdict between {pair.a} and {pair.b}: {pair.reason}."
    alone = pair.p < 1 - pair.level <= (1.0 if pair.p_adjusted is None else pair.p_adjusted)
    why = f"may be chance among so many comparisons (adjusted p {probability(pair.p_adjusted)})" if alone else "may be chance"
    if pair.question == "chance":
        share = f"a run of {pair.a} is better in {100 * pair.probability_of_improvement:.0f} % of cases, which {why}"
        return f"No verdict between {pair.a} and {pair.b}: {share} ({scope(pair)})."
    gap = f"the difference of {score_text(pair.difference, signed=True)} {span(pair.low, pair.high)} {why}, {scope(pair)}"
    return f"No verdict between {pair.a} and {pair.b}: {gap}. {_prospect(pair)}".rstrip()


def merged(pairs: Sequence[PairComparison]) -> list[list[PairComparison]]:
    """The pairs, with indistinguishable ones merged: identical runs, or scores without any spread.

    Three or more variants are merged if all of their pairs are indistinguishable; every other pair stays separate.
    """
    found: list[list[PairComparison]] = []
    together: dict[tuple[str, str], list[PairComparison]] = {}
    for pair in pairs:
        kind = "identical" if pair.identical else pair.reason if pair.p is None and pair.low == pair.high == 0 else ""
        known = next((together[key] for key in ((kind, pair.a), (kind, pair.b)) if key in together), None)
        group = [] if known is None or not kind else known
        group.append(pair)
        if len(group) == 1:
            found.append(group)
        if kind:
            together[kind, pair.a] = together[kind, pair.b] = group
    return found


def verdict_lines(pairs: Sequence[PairComparison]) -> list[tuple[str, str]]:
    """(words, verdict) of each pair, or of several merged ones."""
    return [(_group_words(group), group[0].verdict) for group in merged(pairs)]


def _group_words(group: Sequence[PairComparison]) -> str:
    names = join_names([label for pair in group for label in (pair.a, pair.b)])
    if len(group) == 1:
        return group[0].words
    if group[0].identical:
        return f"{names}: identical runs. The setting that differs has no effect here."
    return f"No verdict between {names}: {group[0].reason}."


def scope(pair: PairComparison) -> str:
    """The scope of a verdict: other seeds and other prompts, or other seeds on these prompts."""
    if pair.over_prompts:
        return "over seeds and prompts"
    return f"on these {pair.num_prompts} prompts" if pair.num_prompts else "on these prompts"


def halving_sentence(pair: PairComparison) -> str:
    """What halves the interval of the difference, more seeds or more prompts, and which costs less; "" if unknown."""
    halving = pair.halving
    if halving is None or pair.num_prompts is None or not pair.components:
        return ""
    part = pair.components[0]
    spread = (
        f" Standard deviations: between seeds {score_text(math.sqrt(max(part.seed)))}, between prompts "
        f"{score_text(math.sqrt(part.interaction))}, within {score_text(math.sqrt(max(part.residual)))}."
    )
    ways = []
    if halving.seeds is not None:
        ways.append(f"{halving.seeds} seeds each instead of {min(pair.n_a, pair.n_b)}")
    if halving.prompts is not None:
        ways.append(f"{halving.prompts} prompts instead of {pair.num_prompts}")
    if not ways:
        if halving.factor is None:
            return ""
        both = f"{halving.factor:g} times the seeds and the prompts"
        return f"{pair.a} - {pair.b}: neither more seeds nor more prompts alone halve the interval; {both} do.{spread}"
    known = ((halving.seeds, min(pair.n_a, pair.n_b)), (halving.prompts, pair.num_prompts))
    alone_times = min(needed / there for needed, there in known if needed is not None)
    num_alone = len(ways)
    if halving.factor is not None and 2 * halving.factor < alone_times:  # increasing only one of them would cost more
        ways.append(f"{halving.factor:g} times both")
    alone = {(True, False): " More prompts alone do not.", (False, True): " More seeds alone do not."}
    missing = alone.get((halving.seeds is not None, halving.prompts is not None), "")
    cheaper = f" {str(pair.cheapest).capitalize()} are cheaper." if num_alone == 2 and pair.cheapest else ""
    needed = None if pair.seeds_needed is None else max(pair.seeds_needed, FEWEST)
    short = ""
    if needed is not None and halving.seeds is not None and needed > halving.seeds:
        short = f" Half the interval would still not detect a difference of this size: that needs about {needed} seeds each."
    return f"{pair.a} - {pair.b}: {_or(ways)} would halve the interval.{short}{missing}{cheaper}{spread}"


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _level(pair: PairComparison) -> str:
    """`95 % interval`."""
    return f"{100 * pair.level:g} % interval"


def _prospect(pair: PairComparison) -> str:
    if pair.minimum_detectable_difference is None:
        return ""
    seeds = str(pair.n_a) if pair.n_a == pair.n_b else f"{pair.n_a} and {pair.n_b}"
    shown = (
        f"{seeds} seeds could have detected a difference of {score_text(pair.minimum_detectable_difference)} or more (80 % power)"
    )
    if pair.seeds_needed is None and pair.prompts_needed is not None:
        return f"{shown}; one of this size needs about {pair.prompts_needed} prompts: more seeds alone do not detect it."
    if pair.seeds_needed is None:
        few = "far more seeds and prompts than are practical" if pair.over_prompts else "far more seeds than are practical"
        return f"{shown}." if pair.difference == 0 else f"{shown}; one of this size needs {few}."
    if pair.seeds_needed < FEWEST:
        return f"{shown}; one of this size needs {FEWEST} seeds each, the minimum for a verdict."
    most = pair.seeds_needed_at_most
    doubt = f" (up to {most}: the spread is itself an estimate)" if most is not None and most > pair.seeds_needed else ""
    prompts = f", or {pair.prompts_needed} prompts" if pair.prompts_needed is not None else ""
    return f"{shown}; one of this size needs about {pair.seeds_needed} seeds each{doubt}{prompts}."


def conclusion(variants: Sequence[Variant], pairs: Sequence[PairComparison]) -> str:
    """The conclusion from all verdicts, for choosing a variant."""
    if len(variants) < 2:
        return (
            f"There is one variant, {variants[0].label}: nothing to compare it with."
            if variants
            else "There is nothing to compare."
        )
    first = variants[0].label
    sides: dict[str, list[str]] = {word: [] for word in VERDICTS}
    for pair in pairs:
        if pair.a == first:
            sides[pair.verdict].append(pair.b)
        elif pair.b == first:
            sides[{"better": "worse", "worse": "better"}.get(pair.verdict, pair.verdict)].append(pair.a)
    others = sum(map(len, sides.values()))
    tied = [variant.label for variant in variants if variant.mean == variants[0].mean]
    best = "lowest" if any(pair.lower_is_better for pair in pairs) else "highest"
    leads = f"{first} has the {best} mean" if len(tied) == 1 else f"{join_names(tied)} share the {best} mean"
    if others and len(sides["better"]) == others:
        scope = "all others" if others == len(variants) - 1 > 1 else join_names(sides["better"])
        return f"{first} is the best: it is better than {scope}."
    if sides["worse"]:  # possible for the best mean with question=chance
        won = [pair.a if pair.verdict == "better" else pair.b for pair in pairs if pair.verdict in ("better", "worse")]
        winner = next((label for label in dict.fromkeys(won) if won.count(label) == len(variants) - 1), None)
        if winner is not None:
            return f"{winner} is the best: a run of it beats a run of any other more often than not. Nevertheless, {leads}."
        return f"{leads}, but is worse than {join_names(sides['worse'])}, whose runs beat its runs more often than not."
    if sides["exploratory"]:
        return f"{leads}, but there are too few seeds for a verdict: everything here is exploratory."
    parts = []
    if sides["better"]:
        parts.append(f"it is better than {join_names(sides['better'])}")
    if sides["equivalent"]:
        parts.append(f"as good as {join_names(sides['equivalent'])} within the margin")
    if sides["inconclusive"]:
        parts.append(f"there is no verdict against {join_names(sides['inconclusive'])}")
    if not sides["better"] and not sides["equivalent"]:
        undecided = (
            "" if len(tied) > 1 else f", but these runs do not show that it is better than {join_names(sides['inconclusive'])}"
        )
        return f"No winner yet: {leads}{undecided}."
    return f"{leads}; {', and '.join(parts)}."


def join_names(names: Sequence[str], *, most: int = 6) -> str:
    """Unique names as a list: `a, b and c`; if there are many, with the number of those left out."""
    names = list(dict.fromkeys(names))
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "any other"
