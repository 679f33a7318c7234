"""Files of pairs or demonstrations whose prompts are also sampled and rewarded, for mixtures on your own data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import DataError
from rlx.task.base import Pair, Prompt, content_uniform, is_learned
from rlx.task.columns import final_answer, is_null
from rlx.task.demonstration_file import DemonstrationFile
from rlx.task.pair_file import PairFile, PreferenceFile
from rlx.task.prompt_file import NOT_FOR_REWARDS
from rlx.task.rewarded import RewardedTask


@dataclass(frozen=True, kw_only=True)
class RewardedPairs(RewardedTask, PairFile):
    """Base: a file of pairs, with rewards for completions sampled from its prompts. The score is that of the rewards.

    answer_key: the column of the answer, which rewards get as `answer`; null, or a file without the column: no answer.
    Rewards get the columns of the row that are not part of its pair, under their own names. A prompt shared by several rows is
    sampled once, so rewards do not get a column in which these rows differ. Raises DataError if their answers differ.
    """

    answer_key: str | None

    def _name(self) -> None:
        """None: cached pairs lack the columns that rewards read, so the files are always read."""

    @cached_property
    def _differing(self) -> set[str]:
        """Columns in which rows with the same prompt differ."""
        return set()

    @cached_property
    def _rows(self) -> dict[float, tuple[Mapping[str, Any], str]]:
        """The hash of a prompt -> the columns for its rewards, and the location of its first row."""
        return {}

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        pair = super()._pair(row, place)
        columns = self._columns(row)
        known, first = self._rows.setdefault(content_uniform(pair.prompt, salt="held out"), (columns, place))
        if known is not columns:
            self._differing.update(name for name in {**known, **columns} if known.get(name) != columns.get(name))
        if "answer" in self._differing:
            raise DataError(
                f"{place}: the answer is {columns.get('answer')!r}, but {known.get('answer')!r} in {first}, which has the same "
                "prompt; fix one of the two, or set task.answer_key=null"
            )
        return pair

    def _columns(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns for rewards of a row whose pair was read."""
        answer = self.columns.name(row, "answer")
        taken = {*self.columns.read, *NOT_FOR_REWARDS}
        columns = {name: value for name, value in row.items() if name not in taken}
        if answer is not None and not is_null(row[answer]):
            columns["answer"] = final_answer(row[answer])
        return columns

    @cached_property
    def _sampled(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """(training prompts, held-out prompts), each once."""
        learn, held_out = (self._distinct(pairs) for pairs in (self.pairs(), self.held_out_pairs()))
        for reward in self.all_rewards().values():
            reward.require_answers([*learn, *held_out])
        return learn, held_out

    def _distinct(self, pairs: Sequence[Pair]) -> tuple[Prompt, ...]:
        first: dict[float, Pair] = {}
        for pair in pairs:
            if pair.lacks:
                continue
            first.setdefault(content_uniform(pair.prompt, salt="held out"), pair)
        return tuple(
            Prompt(
                pair.prompt,
                {name: value for name, value in self._rows[place][0].items() if name not in self._differing},
                pair.tools,
            )
            for place, pair in first.items()
        )

    def prompts(self) -> Sequence[Prompt]:
        return self._sampled[0]

    def held_out_prompts(self) -> Sequence[Prompt]:
        return self._sampled[1]

    def notes(self) -> Sequence[str]:
        notes = [note for note in super().notes() if "not read" not in note]  # rewards read all columns
        if self._differing:
            names = ", ".join(sorted(self._differing))
            notes.append(f"columns that no reward gets, for rows with the same prompt differ in them: {names}")
        return notes

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.prompts())} to sample after, {len(self.held_out_prompts())} held out"
        return {**super().facts(), "prompts": counts, "reward": self.reward_facts()}


@dataclass(frozen=True, kw_only=True)
class RewardedPreferences(RewardedPairs, PreferenceFile):
    """A preference file with rewards for completions sampled from its prompts. The score is that of the rewards.

    answer_key: the column of the answer, or null. Rewards get it, and the other columns of the row under their own names, except
    prompt, chosen, rejected, their scores, system and tools.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs", "rewards"})


@dataclass(frozen=True, kw_only=True)
class RewardedDemonstrations(RewardedPairs, DemonstrationFile):
    """A file of demonstrations with rewards for completions sampled from their prompts. The score is that of the rewards.

    answer_key: the column of the answer that rewards compare with. If it is a worked solution (GSM8K, MATH) and no other column
    has a demonstration, it is the demonstration too; a row with only a bare answer is sampled and not imitated.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"demonstrations", "rewards"})

    def _read(self, row: Mapping[str, Any], place: str) -> Pair:
        answer = self.columns.name(row, "answer")
        if answer not in (None, self.completion_key) and final_answer(row[answer]) == row[answer]:
            row = {self.completion_key: None, **{name: value for name, value in row.items() if name != answer}}
        return super()._read(row, place)

    def notes(self) -> Sequence[str]:
        rows = (*self.pairs(), *self.held_out_pairs())
        longer = sum(sum(map(is_learned, pair.chosen)) > 1 for pair in rows if isinstance(pair.chosen, tuple))
        said = f"{longer} conversations go on after their first answer; what is sampled and rewarded is the first answer alone"
        return [*super().notes(), *([said] if longer else [])]
