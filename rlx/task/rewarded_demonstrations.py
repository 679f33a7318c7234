"""Demonstrations from a data file whose prompts are sampled and rewarded too: for mixtures of supervised and rewarded terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlx.task.base import Pair, is_learned
from rlx.task.columns import final_answer
from rlx.task.demonstration_file import DemonstrationFile
from rlx.task.rewarded_preferences import RewardedPairs


@dataclass(frozen=True, kw_only=True)
class RewardedDemonstrations(RewardedPairs, DemonstrationFile):
    """A file of demonstrations with rewards for what is sampled after their prompts. The score is that of the rewards.

    answer_key: the column of the answer that rewards compare with. It is a demonstration itself where it is a worked solution
    (GSM8K, MATH) and no other column has one; a row with a bare answer and no demonstration is sampled and not imitated.
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
