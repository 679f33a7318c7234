"""Preference pairs from a file: prompt, chosen, rejected, as text or as chat messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.errors import ConfigError, DataError
from rlx.task.base import Pair, Text, finite
from rlx.task.pair_file import PairFile, continuation, is_conversation
from rlx.task.table import as_text, column


@dataclass(frozen=True, kw_only=True)
class PreferenceFile(PairFile):
    """JSONL or Parquet with a pair a row. The score is the share of held-out pairs whose implicit reward prefers the chosen one.

    path: the file. prompt_key, chosen_key, rejected_key: its columns. A missing prompt is the common beginning of chosen and
    rejected.
    chosen_score_key, rejected_score_key: columns with scores, for losses that need them, or null.
    held_out: share of the prompts held out, chosen by a hash of the prompt: all pairs of a prompt are on one side.
    label_noise: share of the training pairs that are flipped.
    """

    prompt_key: str
    chosen_key: str
    rejected_key: str
    chosen_score_key: str | None
    rejected_score_key: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.chosen_score_key is None) != (self.rejected_score_key is None):
            raise ConfigError("set both task.chosen_score_key and task.rejected_score_key, or none of them")

    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        places = {place for place, _ in placed}
        if len(places) < 2:
            raise DataError(f"{self.path} has {len(places)} different prompts; one is needed to learn from and one for the score")
        return min(places)

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        chosen = as_text(column(row, self.chosen_key, place=place, setting="task.chosen_key"), place=place, key=self.chosen_key)
        rejected = as_text(
            column(row, self.rejected_key, place=place, setting="task.rejected_key"), place=place, key=self.rejected_key
        )
        if isinstance(chosen, str) != isinstance(rejected, str):
            raise DataError(
                f"{place}: one of chosen and rejected is text and the other a list of messages; give both in one form"
            )
        given = row.get(self.prompt_key)
        if given is None:
            keys = f"no {self.prompt_key!r} here, only {', '.join(map(repr, row))}"
            prompt, chosen, rejected = implied_prompt(chosen, rejected, place=place, missing=keys)
        elif isinstance(given, str) and is_conversation(chosen):
            prompt, chosen, rejected = implied_prompt(
                chosen, rejected, place=place, missing="a prompt of text beside conversations"
            )
        else:
            text = as_text(given, place=place, key=self.prompt_key)
            (prompt, chosen), (_, rejected) = (continuation(text, completion) for completion in (chosen, rejected))
        return Pair(prompt=prompt, chosen=chosen, rejected=rejected, scores=self._scores(row, place), source=place)

    def _scores(self, row: Mapping[str, Any], place: str) -> tuple[float, float] | None:
        if self.chosen_score_key is None or self.rejected_score_key is None:
            return None
        chosen = column(row, self.chosen_score_key, place=place, setting="task.chosen_score_key")
        rejected = column(row, self.rejected_score_key, place=place, setting="task.rejected_score_key")
        try:
            better, worse = finite(float(chosen)), finite(float(rejected))
        except (TypeError, ValueError):
            better = worse = None
        if better is None or worse is None:
            raise DataError(
                f"{place}: scores {chosen!r} and {rejected!r} are not both finite numbers; mend them or leave the row out"
            )
        return better, worse

    def facts(self) -> Mapping[str, str]:
        return {"pairs": f"{len(self.pairs())} to learn from, {len(self.held_out_pairs())} held out, from {self.path}"}


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
