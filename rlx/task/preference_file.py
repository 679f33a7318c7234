"""Preference pairs from a file: prompt, chosen, rejected, as text or as chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.task.base import Pair, Prompt, Task, Text, content_uniform, with_label_noise
from rlx.task.table import column, file_hash, find_file, read_rows


@dataclass(frozen=True, kw_only=True)
class PreferenceFile(Task):
    """JSONL or Parquet with a pair a row. The score is the share of held-out pairs whose implicit reward prefers the chosen one.

    path: the file. prompt_key, chosen_key, rejected_key: its columns. A missing prompt is the common beginning of chosen and
    rejected.
    chosen_score_key, rejected_score_key: columns with scores, for losses that need them, or null.
    held_out: share of the prompts held out, chosen by a hash of the prompt: all pairs of a prompt are on one side.
    label_noise: share of the training pairs that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs"})
    score: ClassVar[str] = "pair_accuracy"

    path: str
    prompt_key: str
    chosen_key: str
    rejected_key: str
    chosen_score_key: str | None
    rejected_score_key: str | None
    held_out: float
    label_noise: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"task.held_out is {self.held_out}; it is the share of prompts held out for the score, between 0 and 1"
            )
        if (self.chosen_score_key is None) != (self.rejected_score_key is None):
            raise ConfigError("set both task.chosen_score_key and task.rejected_score_key, or none of them")

    @cached_property
    def _file(self) -> Path:
        return find_file(self.path, key="task.path")

    @cached_property
    def _split(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """(learn, held out). Where the hash holds no prompt out, the one nearest to the limit is, so that there is a score."""
        pairs = [self._pair(row, place) for place, row in read_rows(self._file)]
        places = [content_uniform(pair.prompt, salt="held out") for pair in pairs]
        if len(set(places)) < 2:
            raise DataError(
                f"{self.path} has {len(set(places))} different prompts; one is needed to learn from and one for the score"
            )
        limit = max(self.held_out, min(places))
        learn = with_label_noise([pair for pair, place in zip(pairs, places, strict=True) if place > limit], self.label_noise)
        held_out = tuple(pair for pair, place in zip(pairs, places, strict=True) if place <= limit)
        if not learn:
            raise DataError(f"{self.path}: all prompts are held out at task.held_out={self.held_out}; lower it")
        return learn, held_out

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        chosen = as_text(column(row, self.chosen_key, place=place, setting="task.chosen_key"), place=place, key=self.chosen_key)
        rejected = as_text(
            column(row, self.rejected_key, place=place, setting="task.rejected_key"), place=place, key=self.rejected_key
        )
        if isinstance(chosen, str) != isinstance(rejected, str):
            raise DataError(
                f"{place}: one of chosen and rejected is text and the other a list of messages; give both in one form"
            )
        if row.get(self.prompt_key) is None:
            keys = f"no {self.prompt_key!r} here, only {', '.join(map(repr, row))}"
            prompt, chosen, rejected = implied_prompt(chosen, rejected, place=place, missing=keys)
        else:
            prompt = as_text(row[self.prompt_key], place=place, key=self.prompt_key)
            chosen, rejected = (continuation(prompt, completion, place=place) for completion in (chosen, rejected))
        return Pair(prompt=prompt, chosen=chosen, rejected=rejected, scores=self._scores(row, place), source=place)

    def _scores(self, row: Mapping[str, Any], place: str) -> tuple[float, float] | None:
        if self.chosen_score_key is None or self.rejected_score_key is None:
            return None
        chosen = column(row, self.chosen_score_key, place=place, setting="task.chosen_score_key")
        rejected = column(row, self.rejected_score_key, place=place, setting="task.rejected_score_key")
        try:
            return float(chosen), float(rejected)
        except (TypeError, ValueError) as error:
            raise DataError(f"{place}: scores {chosen!r} and {rejected!r} are not both numbers") from error

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
        return {"pairs": f"{len(self.pairs())} to learn from, {len(self.held_out_pairs())} held out, from {self.path}"}

    def content_hash(self) -> str:
        return file_hash(self._file)


def as_text(value: Any, *, place: str, key: str) -> Text:
    """A string, or a non-empty list of {"role", "content"} messages as a tuple."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in value):
        return tuple({name: part for name, part in message.items() if part is not None} for message in value)
    raise DataError(f'{place}: {key!r} is neither text nor a list of messages like {{"role": "user", "content": "..."}}')


def continuation(prompt: Text, completion: Text, *, place: str) -> Text:
    """The completion without the prompt, should the data repeat it; chat completions keep only messages after the prompt's."""
    if isinstance(prompt, tuple) and isinstance(completion, str):
        return ({"role": "assistant", "content": completion},) if completion else ()
    if isinstance(prompt, str) and isinstance(completion, tuple):
        raise DataError(f"{place}: the prompt is text but the completion is a list of messages; give the prompt as messages too")
    return (
        completion[len(prompt) :]
        if completion[: len(prompt)] == prompt and len(prompt) > 0 and isinstance(prompt, tuple)
        else completion
    )


def implied_prompt(chosen: Text, rejected: Text, *, place: str, missing: str = "no prompt") -> tuple[Text, Text, Text]:
    """(prompt, chosen, rejected) where the prompt is the common beginning: whole messages, or text up to the last white space."""
    size = 0
    while size < min(len(chosen), len(rejected)) and chosen[size] == rejected[size]:
        size += 1
    if isinstance(chosen, tuple):
        while size > 0 and chosen[size - 1]["role"] == "assistant":  # equal completions are not a prompt
            size -= 1
    elif size < min(len(chosen), len(rejected)) or len(chosen) != len(rejected):
        size = max(chosen.rfind(" ", 0, size), chosen.rfind("\n", 0, size)) + 1
    if size == 0:
        raise DataError(
            f"{place}: there is {missing}, and chosen and rejected have no common beginning to be the prompt; "
            "give a prompt, or say which key holds it with task.prompt_key"
        )
    return chosen[:size], chosen[size:], rejected[size:]
