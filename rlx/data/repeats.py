"""Duplicates in a file of pairs: prompts, rows, and pairs whose sides differ only in white space or case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rlx.data.stores import TokenStore
from rlx.data.tokens import TextEncoder
from rlx.task.base import Pair, Pairs, Text

_BEGINNING = 64  # characters of a completion


def repeats(sides: Sequence[Sequence[Pair]], text: TextEncoder, store: TokenStore | None) -> dict[str, int]:
    """Count duplicates; for pairs with names, the result is cached for later runs."""
    if store is None or not all(isinstance(side, Pairs) for side in sides):
        return counted_repeats(*sides)
    name = store.name_of(
        text, Path(__file__).read_text(encoding="utf-8"), *(side.name for side in sides if isinstance(side, Pairs))
    )
    kept = store.read(name)
    if kept is None:
        kept = counted_repeats(*sides)
        store.write(name, kept)
    return kept


def counted_repeats(learn: Sequence[Pair], held_out: Sequence[Pair]) -> dict[str, int]:
    """Count distinct prompts, prompts in both splits, duplicate rows, and pairs that differ only in white space or case."""
    learn, held_out = ([pair for pair in side if not pair.lacks] for side in (learn, held_out))
    everything = [*learn, *held_out]
    prompts = [squashed(pair.prompt) for pair in everything]
    often = Counter(prompts)
    again = [
        (prompt, squashed(pair.chosen), squashed(pair.rejected))
        for prompt, pair in zip(prompts, everything, strict=True)
        if often[prompt] > 1
    ]
    return {
        "prompts": len(often),
        "in_both": len({*prompts[: len(learn)]} & {*prompts[len(learn) :]}),
        "duplicates": len(again) - len(set(again)),
        "white_space_pairs": sum(pair.chosen != pair.rejected and _are_alike(pair) for pair in everything),
    }


def squashed(text: Text) -> str:
    """A text in lower case without white space."""
    return "".join(_whole(text).split()).casefold()


def _whole(text: Text) -> str:
    if isinstance(text, str):
        return text
    return "\n".join(["".join([f"{name}:{message[name]}" for name in sorted(message) if message[name]]) for message in text])


def _are_alike(pair: Pair) -> bool:
    """Whether both completions are non-empty and equal up to white space and case; compares their beginnings first."""
    chosen, rejected = _whole(pair.chosen), _whole(pair.rejected)
    begins = [squashed(side[:_BEGINNING]) for side in (chosen, rejected)]
    if not begins[0].startswith(begins[1]) and not begins[1].startswith(begins[0]):
        return False
    said = squashed(chosen)
    return bool(said) and said == squashed(rejected)
