"""Prompts and their answers from a data file; rewards compare the completions with the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import DataError
from rlx.fields import within
from rlx.garbage import collection_paused
from rlx.task.base import Prompt, content_uniform
from rlx.task.columns import CONVERSATIONS, ReadsFile, final_answer
from rlx.task.messages import as_conversation, as_text, before_answer, with_system
from rlx.task.rewarded import RewardedTask
from rlx.task.table import AbsentError

NOT_FOR_REWARDS = ("prompt", "completion")  # parameter names of rewards; columns with these names cannot be passed to them


@dataclass(frozen=True, kw_only=True)
class PromptFile(ReadsFile, RewardedTask):
    """A data file with one prompt per row. Rewards get the other columns, and the answer as `answer`.

    path: the file (see find_files). prompt_key: the column of the prompt, text or chat messages.
    answer_key: the column of the answer; null if no reward needs one. Rewards do not get columns named prompt or completion.
    held_out: share of the prompts held out, chosen by a hash of the prompt: all rows of a prompt are on one side.
    system: a system message for every prompt that has none. system_key, tools_key: columns with a row's own, and with its tools.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})

    path: str
    prompt_key: str
    answer_key: str | None
    held_out: float = within(above=0, below=1)
    system: str | None = None
    system_key: str | None = "system"
    tools_key: str | None = "tools"

    @cached_property
    def _read(self) -> tuple[list[Prompt], list[AbsentError]]:
        """(the prompt of each row, the errors of rows without one)."""
        with collection_paused():
            return self.columns.made(self._files, self._prompt)

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """(training prompts, held-out prompts). At least the prompt with the smallest hash is held out, for the score."""
        prompts, _ = self._read
        if not prompts:
            raise DataError(f"{self.path} is empty; a prompt file has one row per prompt, such as {self._example()}")
        for reward in self.all_rewards().values():
            reward.require_answers(prompts)
        places = [content_uniform(prompt.text, salt="held out") for prompt in prompts]
        if len(set(places)) < 2:
            raise DataError(f"{self.path} has one prompt; at least one is needed to learn from and another for the score")
        limit = max(self.held_out, min(places))
        learn = tuple(prompt for prompt, place in zip(prompts, places, strict=True) if place > limit)
        if not learn:
            raise DataError(f"{self.path}: all prompts are held out at task.held_out={self.held_out}; lower it")
        return learn, tuple(prompt for prompt, place in zip(prompts, places, strict=True) if place <= limit)

    def _prompt(self, row: Mapping[str, Any], place: str) -> Prompt:
        self.columns.saw(row)
        key, value = self.columns.value(row, "prompt", place=place)
        whole = key in CONVERSATIONS
        text = (as_conversation if whole else as_text)(value, place=place, key=key)
        text = before_answer(text) if whole else text
        system, tools = self.system_and_tools(row, place)
        columns = {name: value for name, value in row.items() if name not in (key, self.answer_key, *NOT_FOR_REWARDS)}
        if self.answer_key is not None:
            columns["answer"] = final_answer(self.columns.value(row, "answer", place=place)[1])
        return Prompt(with_system(text, system), columns, tools)

    def notes(self) -> Sequence[str]:
        self.prompts()  # make sure that the file is read
        return [note for note in self.columns.notes() if "not read" not in note]  # rewards read all columns

    def _example(self) -> str:
        answer = "" if self.answer_key is None else f', "{self.answer_key}": "46"'
        return f'{{"{self.prompt_key}": "12+34="{answer}}}'

    def prompts(self) -> Sequence[Prompt]:
        return self._split[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._split[1]

    def dropped_rows(self) -> Sequence[tuple[str, str]]:
        return [(error.place, error.lacks) for error in self._read[1]]

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.prompts())} to learn from, {len(self.held_out_prompts())} held out, from {self.path}"
        _, lacking = self._read
        counts += f"; {len(lacking)} rows dropped, such as {lacking[0].place}: {lacking[0].lacks}" if lacking else ""
        return {"prompts": counts, "reward": self.reward_facts()}
