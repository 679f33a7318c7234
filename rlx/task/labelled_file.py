"""Single completions from a file, each labelled desirable or not: what people give by a thumb up or down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.task.base import Pair, Prompt, Task, content_uniform, with_label_noise
from rlx.task.preference_file import as_text, continuation
from rlx.task.table import column, file_hash, find_file, read_rows

WORDS = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class LabelledFile(Task):
    """JSONL or Parquet with a completion and its boolean label a row, for losses that read labels: loss=kto, loss=kto_pair.

    A row is a pair of which one side is absent: a desirable completion is chosen, an undesirable one rejected. The score is the
    share of held-out couples, one desirable and one undesirable, of which the desirable one has the larger implicit reward.

    path: the file. prompt_key, completion_key, label_key: its columns; a label is true or false, or 1 or 0.
    held_out: share of the prompts held out, chosen by a hash of the prompt; more if it takes more to have both labels there.
    label_noise: share of the training labels that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs", "labels"})
    score: ClassVar[str] = "pair_accuracy"

    path: str
    prompt_key: str
    completion_key: str
    label_key: str
    held_out: float
    label_noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"task.held_out is {self.held_out}; it is the share of prompts held out for the score, between 0 and 1"
            )

    @cached_property
    def _file(self) -> Path:
        return find_file(self.path, key="task.path")

    @cached_property
    def _split(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """(learn, held out), the latter with both labels in turn as far as they last, so that its first rows have both."""
        pairs = [self._pair(row, place) for place, row in read_rows(self._file)]
        places = [content_uniform(pair.prompt, salt="held out") for pair in pairs]
        first = {
            desirable: min(
                (place for pair, place in zip(pairs, places, strict=True) if is_desirable(pair) == desirable), default=2
            )
            for desirable in (True, False)
        }
        lacking = [str(desirable).lower() for desirable, place in first.items() if place == 2]
        if lacking:
            raise DataError(f"{self.path}: no {self.label_key!r} is {lacking[0]}; both labels are needed to learn what is better")
        limit = max(self.held_out, *first.values())
        learn = with_label_noise([pair for pair, place in zip(pairs, places, strict=True) if place > limit], self.label_noise)
        held_out = [pair for pair, place in zip(pairs, places, strict=True) if place <= limit]
        if not learn:
            raise DataError(
                f"{self.path}: all prompts are held out, at task.held_out={self.held_out} and with both labels there; "
                "lower it, or give more prompts"
            )
        kinds = ([pair for pair in held_out if is_desirable(pair) == desirable] for desirable in (True, False))
        return learn, tuple(pair for pair in chain.from_iterable(zip_longest(*kinds)) if pair is not None)

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        values = {}
        for name in ("prompt", "completion"):
            key = getattr(self, f"{name}_key")
            values[name] = as_text(column(row, key, place=place, setting=f"task.{name}_key"), place=place, key=key)
        completion = continuation(values["prompt"], values["completion"], place=place)
        absent = "" if isinstance(completion, str) else ()
        if self._label(row, place):
            return Pair(values["prompt"], completion, absent, label=(True, None), source=place)
        return Pair(values["prompt"], absent, completion, label=(None, False), source=place)

    def _label(self, row: Mapping[str, Any], place: str) -> bool:
        value = column(row, self.label_key, place=place, setting="task.label_key")
        value = WORDS.get(value.lower(), value) if isinstance(value, str) else value
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
        raise DataError(f"{place}: {self.label_key!r} is {value!r}; a label is true or false, or 1 or 0")

    def pairs(self) -> Sequence[Pair]:
        return self._split[0]

    def held_out_pairs(self) -> Sequence[Pair]:
        return self._split[1]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._held_out_prompts

    @cached_property
    def _held_out_prompts(self) -> tuple[Prompt, ...]:
        """Each held-out prompt once."""
        distinct = {content_uniform(pair.prompt, salt="held out"): pair.prompt for pair in self.held_out_pairs()}
        return tuple(Prompt(text) for text in distinct.values())

    def facts(self) -> Mapping[str, str]:
        learn, held_out = self.pairs(), self.held_out_pairs()
        desirable = sum(map(is_desirable, learn))
        counts = f"{desirable} desirable and {len(learn) - desirable} undesirable completions to learn from"
        return {"pairs": f"{counts}, {len(held_out)} held out, from {self.path}"}

    def content_hash(self) -> str:
        return file_hash(self._file)


def is_desirable(pair: Pair) -> bool:
    """Whether the one completion of a row is the desirable kind."""
    return pair.label is not None and pair.label[0] is not None
