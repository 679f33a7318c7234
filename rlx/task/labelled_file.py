"""Single completions from a file, each labelled desirable or not: what people give by a thumb up or down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, ClassVar

from rlx.errors import DataError
from rlx.task.base import Pair
from rlx.task.pair_file import PairFile, continuation
from rlx.task.table import as_text, column

WORDS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class LabelledFile(PairFile):
    """JSONL or Parquet with a completion and its boolean label a row, for losses that read labels: loss=kto, loss=kto_pair.

    A row is a pair of which one side is absent: a desirable completion is chosen, an undesirable one rejected. The score is the
    share of held-out couples, one desirable and one undesirable, of which the desirable one has the larger implicit reward.

    path: the file. prompt_key, completion_key, label_key: its columns; a label is true or false, or 1 or 0.
    held_out: share of the prompts held out, chosen by a hash of the prompt; more if it takes more to have both labels there.
    label_noise: share of the training labels that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs", "labels"})

    prompt_key: str
    completion_key: str
    label_key: str

    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        places = {label: [place for place, pair in placed if is_desirable(pair) == label] for label in (True, False)}
        lacking = [str(label).lower() for label, found in places.items() if not found]
        if lacking:
            raise DataError(f"{self.path}: no {self.label_key!r} is {lacking[0]}; both labels are needed to learn what is better")
        return max(map(min, places.values()))

    def _ordered(self, held_out: Sequence[Pair]) -> tuple[Pair, ...]:
        """Both labels in turn as far as they last, so that the first rows have both."""
        kinds = ([pair for pair in held_out if is_desirable(pair) == label] for label in (True, False))
        return tuple(pair for pair in chain.from_iterable(zip_longest(*kinds)) if pair is not None)

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        values = {}
        for name in ("prompt", "completion"):
            key = getattr(self, f"{name}_key")
            values[name] = as_text(column(row, key, place=place, setting=f"task.{name}_key"), place=place, key=key)
        prompt, completion = continuation(values["prompt"], values["completion"])
        absent = "" if isinstance(completion, str) else ()
        if self._label(row, place):
            return Pair(prompt, completion, absent, label=(True, None), source=place)
        return Pair(prompt, absent, completion, label=(None, False), source=place)

    def _label(self, row: Mapping[str, Any], place: str) -> bool:
        value = column(row, self.label_key, place=place, setting="task.label_key")
        value = WORDS.get(value.lower(), value) if isinstance(value, str) else value
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise DataError(f"{place}: {self.label_key!r} is {value!r}; a label is true or false, or 1 or 0")

    def facts(self) -> Mapping[str, str]:
        learn, held_out = self.pairs(), self.held_out_pairs()
        desirable = sum(map(is_desirable, learn))
        counts = f"{desirable} desirable and {len(learn) - desirable} undesirable completions to learn from"
        return {"pairs": f"{counts}, {len(held_out)} held out, from {self.path}"}


def is_desirable(pair: Pair) -> bool:
    """Whether the one completion of a row is the desirable kind."""
    return pair.label is not None and pair.label[0] is not None
