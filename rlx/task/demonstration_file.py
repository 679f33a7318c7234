"""Demonstrations from a data file: conversations, or prompts with a completion, that supervised fine-tuning imitates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.task.base import Pair, Text, is_learned
from rlx.task.columns import whole_conversation
from rlx.task.messages import as_text
from rlx.task.pair_file import PairFile, continuation, goes_on, is_conversation

_LABELS = ("label", "desirable", "thumbs_up", "kto_tag")  # columns with boolean labels
_CONTEXT = ("system", "developer", "assistant")  # roles that may speak before the first question


@dataclass(frozen=True, kw_only=True)
class DemonstrationFile(PairFile):
    """A data file with one demonstration per row: a conversation, or a prompt and its completion.

    The prompt of a conversation ends where the assistant first answers; the rest is the completion, of which all of the
    assistant's turns are learned. Rows without an answer are left out and counted. The score is the mean log-probability per
    learned token of the held-out demonstrations, in nats: higher is better, and perplexity is exp(-score).

    path: the file. prompt_key: the column of the prompt, or of a whole conversation. completion_key: that of the completion.
    held_out: share of the prompts held out, chosen by a hash of the prompt.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"demonstrations"})

    prompt_key: str
    completion_key: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_noise:
            raise ConfigError("task.label_noise flips pairs, and a demonstration has no other side; leave it out")

    @property
    def score(self) -> str:  # type: ignore[override]
        """The metric used as the score: the mean log-probability per learned token."""
        return "log_likelihood"

    def score_facts(self) -> str:
        return "log_likelihood: mean log-probability of a learned token of the held-out demonstrations, in nats; higher is better"

    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        places = {place for place, pair in placed if pair.chosen}
        if len(places) < 2:
            answered = [pair for _, pair in placed if not pair.chosen and _is_answered(pair.prompt)]
            marked = f"; of {len(answered)} rows every answer has weight 0 or train false" if answered else ""
            raise DataError(
                f"{self.path} has {len(places)} different prompts with an answer to learn, of {len(placed)} rows{marked}; one is "
                "needed to learn from and one for the score. An answer is a message of the role assistant, or a completion"
            )
        return min(places)

    def _read(self, row: Mapping[str, Any], place: str) -> Pair:
        if refused := next((name for name in _LABELS if row.get(name) is False), None):
            raise DataError(
                f"{place}: {refused!r} is false, a completion that is not desirable, and demonstrations are all imitated; "
                "task=labelled_file learns from both kinds (loss=kto), or leave such rows out"
            )
        messages = whole_conversation(self.columns, row, place=place)
        prompt, completion = self._two_columns(row, place) if messages is None else split_conversation(messages)
        return Pair(prompt, completion, "" if isinstance(completion, str) else (), label=(True, None), source=place)

    def _two_columns(self, row: Mapping[str, Any], place: str) -> tuple[Text, Text]:
        """(prompt, completion) of a row with separate columns for them; empty if one is null."""
        name = self.columns.name(row, "completion")
        if name is not None and row[name] in (None, []):
            completion: Text = ""
        else:
            name, answer = self.columns.value(row, "completion", place=place)
            completion = as_text(answer, place=place, key=name)
        first = completion[0] if isinstance(completion, tuple) and is_conversation(completion) else None
        if first and (first["role"] != "assistant" or self.columns.name(row, "prompt") is None):
            return split_conversation(completion)
        asked_in = self.columns.name(row, "prompt")
        if first and row[str(asked_in)] in (None, "", []):
            return split_conversation(completion)
        key, asked = self.columns.value(row, "prompt", place=place)
        prompt = as_text(asked, place=place, key=key)
        if first and not goes_on(prompt, completion):  # the question follows a greeting
            return split_conversation(completion)
        return continuation(prompt, completion)

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.pairs())} to learn from, {len(self.held_out_pairs())} held out, from {self.path}"
        return {"demonstrations": counts}

    def notes(self) -> Sequence[str]:
        rows = (*self.pairs(), *self.held_out_pairs())
        begun = sum(_is_begun(pair.prompt) for pair in rows)
        said = f"{begun} conversations begin with the assistant's words, before any user turn: they are context"
        return [*super().notes(), *([said] if begun else [])]


def split_conversation(messages: Text) -> tuple[Text, Text]:
    """(prompt, completion) of a conversation: the completion begins where the assistant first answers somebody.

    An answer of weight 0 is context, and belongs to the prompt, unless the assistant itself continues after it. The completion
    is () if the assistant never answers, or no answer is learned.
    """
    asked, talk = False, messages if isinstance(messages, tuple) else ()
    for place, message in enumerate(talk):
        if asked and is_learned(message):
            first = next(before for before in range(place, 0, -1) if talk[before - 1]["role"] != "assistant")
            return talk[:first], talk[first:]
        asked = asked or message["role"] not in _CONTEXT
    return messages, ()


def _is_answered(prompt: Text) -> bool:
    """Whether a prompt of messages contains an answer marked as not to be learned."""
    return isinstance(prompt, tuple) and any(message["role"] == "assistant" and not is_learned(message) for message in prompt)


def _is_begun(prompt: Text) -> bool:
    """Whether a prompt of messages begins with a message of the assistant."""
    spoken = [message["role"] for message in prompt if message["role"] not in _CONTEXT[:2]] if isinstance(prompt, tuple) else []
    return spoken[:1] == ["assistant"]
