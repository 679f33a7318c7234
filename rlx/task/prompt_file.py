"""Prompts with answers from a file, for rewards to judge the completions by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.task.base import Prompt, content_uniform
from rlx.task.rewarded import RewardedTask
from rlx.task.table import as_text, column, file_hash, find_file, read_rows

_ARGUMENTS = ("prompt", "completion")  # of a reward; columns of these names cannot be handed to it


@dataclass(frozen=True, kw_only=True)
class PromptFile(RewardedTask):
    """JSONL or Parquet with a prompt a row. The other columns are handed to the rewards, the answer under the name `answer`.

    path: the file. prompt_key: the column of the prompt, text or chat messages. answer_key: the column of the answer; null: there
    is none, for rewards that need none. Columns called prompt or completion stay out.
    held_out: share of the prompts held out, chosen by a hash of the prompt: all rows of a prompt are on one side.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})

    path: str
    prompt_key: str
    answer_key: str | None
    held_out: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.held_out < 1:
            raise ConfigError(f"task.held_out is {self.held_out}; it is the share held out for the score, between 0 and 1")

    @cached_property
    def _file(self) -> Path:
        return find_file(self.path, key="task.path")

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """(learn, held out). When the hash holds no prompt out, the one nearest to it is, so that there is a score."""
        prompts = [self._prompt(row, place) for place, row in read_rows(self._file)]
        if not prompts:
            raise DataError(f"{self.path} is empty; a prompt file has one row a prompt, such as {self._example()}")
        places = [content_uniform(prompt.text, salt="held out") for prompt in prompts]
        if len(set(places)) < 2:
            raise DataError(f"{self.path} has one prompt; at least one is needed to learn from and another for the score")
        limit = max(self.held_out, min(places))
        learn = tuple(prompt for prompt, place in zip(prompts, places, strict=True) if place > limit)
        if not learn:
            raise DataError(f"{self.path}: all prompts are held out at task.held_out={self.held_out}; lower it")
        return learn, tuple(prompt for prompt, place in zip(prompts, places, strict=True) if place <= limit)

    def _prompt(self, row: Mapping[str, Any], place: str) -> Prompt:
        text = as_text(column(row, self.prompt_key, place=place, setting="task.prompt_key"), place=place, key=self.prompt_key)
        columns = {name: value for name, value in row.items() if name not in (self.prompt_key, self.answer_key, *_ARGUMENTS)}
        if self.answer_key is not None:
            answer = column(row, self.answer_key, place=place, setting="task.answer_key")
            if answer is None:
                raise DataError(f"{place}: the answer ({self.answer_key!r}) is null; give one, or leave the row out")
            columns["answer"] = answer
        return Prompt(text, columns)

    def _example(self) -> str:
        answer = "" if self.answer_key is None else f', "{self.answer_key}": "46"'
        return f'{{"{self.prompt_key}": "12+34="{answer}}}'

    def prompts(self) -> Sequence[Prompt]:
        return self._split[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._split[1]

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.prompts())} to learn from, {len(self.held_out_prompts())} held out, from {self.path}"
        return {"prompts": counts, "reward": self.reward_facts()}

    def content_hash(self) -> str:
        return file_hash(self._file)
