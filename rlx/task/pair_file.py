"""What tasks of a file of completions share: pairs from its rows, learnt from or held out by a hash of their prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.task.base import Pair, Prompt, Task, Text, content_uniform, with_label_noise
from rlx.task.table import file_hash, find_file, read_rows


@dataclass(frozen=True, kw_only=True)
class PairFile(Task, ABC):
    """A file whose rows become pairs. A subclass says how, and how many must be held out for a score.

    path: JSONL or Parquet. held_out: share of the prompts held out, chosen by a hash of the prompt.
    label_noise: share of the training pairs that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs"})
    score: ClassVar[str] = "pair_accuracy"

    path: str
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
        """(learn, held out). More than `held_out` is held out where less would leave no score."""
        pairs = [self._pair(row, place) for place, row in read_rows(self._file)]
        if not pairs:
            raise DataError(f"{self.path} is empty; it has one JSON object a line, or one row of Parquet, for each pair")
        placed = [(content_uniform(pair.prompt, salt="held out"), pair) for pair in pairs]
        limit = max(self.held_out, self._least(placed))
        learn = with_label_noise([pair for place, pair in placed if place > limit], self.label_noise)
        if not learn:
            raise DataError(
                f"{self.path}: all prompts are held out at task.held_out={self.held_out}; lower it, or give more prompts"
            )
        return learn, self._ordered([pair for place, pair in placed if place <= limit])

    @abstractmethod
    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        """The pair of a row; `place` names its file and line in errors."""

    @abstractmethod
    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        """The smallest share to hold out so that there is a score, of pairs with the number in [0, 1) of their prompt's hash."""

    def _ordered(self, held_out: Sequence[Pair]) -> tuple[Pair, ...]:
        """The held-out pairs as they are evaluated: the first of them, where not all are."""
        return tuple(held_out)

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

    def content_hash(self) -> str:
        return file_hash(self._file)


def is_conversation(completion: Text) -> bool:
    """Whether it holds a user's message: then it is a whole conversation, prompt and all, whatever stands beside it."""
    return isinstance(completion, tuple) and any(message["role"] == "user" for message in completion)


def continuation(prompt: Text, completion: Text) -> tuple[Text, Text]:
    """(prompt, completion) in one form, text or messages, the completion without the prompt, should the data repeat it.

    A text beside a whole conversation is the prompt once more: there the last answer is the completion.
    """
    if isinstance(completion, str):
        answer = ({"role": "assistant", "content": completion},) if completion else ()
        return prompt, completion if isinstance(prompt, str) else answer
    if isinstance(prompt, str) and is_conversation(completion):
        size = max(place for place, message in enumerate(completion, start=1) if message["role"] != "assistant")
        return completion[:size], completion[size:]
    prompt = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return prompt, completion[len(prompt) :] if prompt and completion[: len(prompt)] == prompt else completion
