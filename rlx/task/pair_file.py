"""Tasks whose pairs are the rows of a data file: preference pairs, or single completions with a label.

A hash of the prompt decides whether a pair is used for training or held out.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.fields import within
from rlx.garbage import collection_paused
from rlx.task.base import Pair, Pairs, Prompt, Task, Text, content_uniform, finite, with_label_noise
from rlx.task.columns import CONVERSATIONS, SCORES, ReadsFile, as_label, first_of, whole_conversation
from rlx.task.messages import as_text, before_answer, with_system
from rlx.task.table import AbsentError, column

if TYPE_CHECKING:
    from rlx.data.pair_store import PairStore

_LEAST_KEPT, _MOST_KEPT = 2**21, 2**29  # range of file sizes, in bytes, whose pairs are cached for later runs
SPEAKER = "\n\nAssistant:"  # in transcripts such as Anthropic's HH


@dataclass(frozen=True, kw_only=True)
class PairFile(ReadsFile, Task, ABC):
    """Base of tasks that make pairs from the rows of a file. A subclass reads a row, and knows how many pairs a score needs.

    path: the file (see find_files). held_out: share of the prompts held out, chosen by a hash of the prompt.
    label_noise: share of the training pairs that are flipped.
    system: a system message for every conversation that has none; with it, a plain-text prompt becomes a conversation.
    system_key, tools_key: the columns with a row's own system message and tool schemas; null: none.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs"})
    _store: ClassVar[Any] = None

    path: str
    held_out: float = within(above=0, below=1)
    label_noise: float = within(at_least=0, at_most=1, default=0.0)
    system: str | None = None
    system_key: str | None = "system"
    tools_key: str | None = "tools"

    @property
    def score(self) -> str:  # type: ignore[override]
        """The metric used as the score: the share of held-out pairs whose chosen side has the larger implicit reward."""
        return "pair_accuracy"

    @cached_property
    def _split(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """(training pairs, held-out pairs). Holds out a larger share than `held_out` if the score needs it."""
        name = self._name()
        with collection_paused():
            kept = None if name is None else self._store.read(name)
        if name is None or kept is None:
            learn, held_out = self._read_files()
            if self._name() != name:  # the files have changed meanwhile
                name = None
            if name is not None:
                self._store.write(name, (learn, held_out), self.columns.known())
        else:
            (learn, held_out), known = kept
            self.columns.learn(known)
        if name is None:
            return tuple(learn), tuple(held_out)
        return Pairs.of(learn, f"{name}learn"), Pairs.of(held_out, f"{name}held_out")

    def keep_in(self, store: PairStore) -> None:
        object.__setattr__(self, "_store", store)

    def _name(self) -> str | None:
        """A hash of all that determines the pairs; None if they are not worth caching, or a user's class reads the rows."""
        size = sum(file.stat().st_size for file in self._files)
        if self._store is None or not _LEAST_KEPT <= size <= _MOST_KEPT or not type(self).__module__.startswith("rlx."):
            return None
        settings = {each.name: getattr(self, each.name) for each in fields(self)}
        parts = [_source(), type(self).__qualname__, settings, list(map(str, self._files)), self.content_hash()]
        return hashlib.blake2b(json.dumps(parts, default=repr).encode(), digest_size=16).hexdigest()

    def _read_files(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Like `_split`, but always read from the files."""
        with collection_paused():
            pairs, lacking = self.columns.made(self._files, self._pair)
            placed = [(content_uniform(pair.prompt, salt="held out"), pair) for pair in pairs]
        if not pairs:
            raise DataError(f"{self.path} is empty; each pair is one JSON object on a line, or one row of a table")
        limit = max(self.held_out, self._least(placed))
        learn = with_label_noise([pair for place, pair in placed if place > limit], self.label_noise)
        if not learn:
            raise DataError(
                f"{self.path}: all prompts are held out at task.held_out={self.held_out}; lower it, or give more prompts"
            )
        dropped = (Pair("", "", "", source=error.place, lacks=error.lacks) for error in lacking)
        return (*learn, *dropped), self._ordered([pair for place, pair in placed if place <= limit])

    def _pair(self, row: Mapping[str, Any], place: str) -> Pair:
        """The pair of a row with its system message and its tools."""
        self.columns.saw(row)
        pair = self._read(row, place)
        system, tools = self.system_and_tools(row, place)
        return replace(pair, prompt=with_system(pair.prompt, system), tools=tools) if system or tools else pair

    def notes(self) -> Sequence[str]:
        self.pairs()  # make sure that the file is read
        return self.columns.notes()

    @abstractmethod
    def _read(self, row: Mapping[str, Any], place: str) -> Pair:
        """The pair of a row; `place` names its file and line in errors."""

    @abstractmethod
    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        """The smallest held-out share with enough pairs for a score. placed: (hash of the prompt in [0, 1), pair)."""

    def _ordered(self, held_out: Sequence[Pair]) -> tuple[Pair, ...]:
        """The held-out pairs in the order of evaluation, which may read only the first ones."""
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
        distinct = {content_uniform(pair.prompt, salt="held out"): pair for pair in self.held_out_pairs()}
        return tuple(Prompt(pair.prompt, tools=pair.tools) for pair in distinct.values())


@cache
def _source() -> str:
    """The source code that converts rows, which is part of the cache key."""
    modules = ("base", "columns", "messages", "table", "pair_file")
    return "".join(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in modules)


def is_conversation(completion: Text) -> bool:
    """Whether a completion contains a user message, and so is a whole conversation that includes the prompt."""
    return isinstance(completion, tuple) and any(message["role"] == "user" for message in completion)


def goes_on(prompt: Text, completion: Text) -> bool:
    """Whether messages continue their prompt: the assistant begins, and they do not repeat the prompt's question."""
    asked = {"role": "user", "content": prompt} if isinstance(prompt, str) else prompt[-1]
    return isinstance(completion, tuple) and completion[0]["role"] == "assistant" and asked not in completion


def continuation(prompt: Text, completion: Text) -> tuple[Text, Text]:
    """(prompt, completion), both text or both messages; if the completion repeats the prompt, that part is removed.

    A whole conversation beside a plain-text prompt is split before its last answer, and the text is ignored; one that begins
    with the assistant continues the prompt.
    """
    if isinstance(completion, str):
        answer = ({"role": "assistant", "content": completion},) if completion else ()
        return prompt, completion if isinstance(prompt, str) else answer
    if isinstance(prompt, str) and is_conversation(completion) and not goes_on(prompt, completion):
        size = max(place for place, message in enumerate(completion, start=1) if message["role"] != "assistant")
        return completion[:size], completion[size:]
    prompt = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return prompt, completion[len(prompt) :] if prompt and completion[: len(prompt)] == prompt else completion


@dataclass(frozen=True, kw_only=True)
class LabelledFile(PairFile):
    """A data file with one completion and its label per row, such as thumbs up and down, for loss=kto and loss=kto_pair.

    A row is a pair with one absent side: a desirable completion is chosen, an undesirable one rejected. The score is the share
    of held-out combinations of a desirable and an undesirable one in which the desirable one has the larger implicit reward.

    path: the file. prompt_key, completion_key, label_key: its columns; a label is true or false, or 1 or 0.
    held_out: share of the prompts held out, chosen by a hash of the prompt; more if fewer would lack one of the labels.
    label_noise: share of the training labels that are flipped.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"pairs", "labels"})

    prompt_key: str
    completion_key: str
    label_key: str

    def _least(self, placed: Sequence[tuple[float, Pair]]) -> float:
        said = [(place, is_desirable(pair)) for place, pair in placed if pair.chosen or pair.rejected]
        places = {label: [place for place, desirable in said if desirable == label] for label in (True, False)}
        lacking = [str(label).lower() for label, found in places.items() if not found]
        if lacking:
            raise DataError(f"{self.path}: no {self.label_key!r} is {lacking[0]}; both labels are needed to learn what is better")
        return max(map(min, places.values()))

    def _ordered(self, held_out: Sequence[Pair]) -> tuple[Pair, ...]:
        """Desirable and undesirable completions alternately, so that the first rows have both labels."""
        kinds = ([pair for pair in held_out if is_desirable(pair) == label] for label in (True, False))
        return tuple(pair for pair in chain.from_iterable(zip_longest(*kinds)) if pair is not None)

    def _read(self, row: Mapping[str, Any], place: str) -> Pair:
        messages = whole_conversation(self.columns, row, place=place)
        if messages is not None:
            prompt, completion = self._split_conversation(messages, place)
        else:
            key, value = self.columns.value(row, "prompt", place=place)
            name, answer = self.columns.value(row, "completion", place=place)
            prompt, completion = continuation(as_text(value, place=place, key=key), as_text(answer, place=place, key=name))
        absent = "" if isinstance(completion, str) else ()
        if self._label(row, place):
            return Pair(prompt, completion, absent, label=(True, None), source=place)
        return Pair(prompt, absent, completion, label=(None, False), source=place)

    def _split_conversation(self, messages: Text, place: str) -> tuple[Text, Text]:
        """(prompt, completion) of a conversation: the completion is the assistant's messages at its end."""
        prompt = before_answer(messages)
        if prompt == messages:
            raise AbsentError(place, "the conversation does not end with an answer of the assistant")
        return prompt, messages[len(prompt) :]

    def _label(self, row: Mapping[str, Any], place: str) -> bool:
        name, value = self.columns.value(row, "label", place=place)
        return as_label(value, place=place, key=name)

    def facts(self) -> Mapping[str, str]:
        learn, held_out = self.pairs(), self.held_out_pairs()
        desirable, labelled = sum(map(is_desirable, learn)), sum(pair.label is not None for pair in learn)
        counts = f"{desirable} desirable and {labelled - desirable} undesirable completions to learn from"
        return {"pairs": f"{counts}, {len(held_out)} held out, from {self.path}"}


def is_desirable(pair: Pair) -> bool:
    """Whether a row's single completion is desirable."""
    return pair.label is not None and pair.label[0] is not None


@dataclass(frozen=True, kw_only=True)
class PreferenceFile(PairFile):
    """A data file with one pair per row. The score is the share of held-out pairs whose chosen side has the larger reward.

    The reward is the implicit one of the loss. Sides are text or chat messages.
    path: the file. prompt_key, chosen_key, rejected_key: its columns. Without a prompt, the common beginning of chosen and
    rejected is the prompt.
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
        places = {place for place, pair in placed if pair.chosen and pair.rejected}
        if len(places) < 2:
            raise DataError(
                f"{self.path} has {len(places)} different prompts with both sides; one is needed to learn from and one for the "
                "score"
            )
        return min(places)

    def _read(self, row: Mapping[str, Any], place: str) -> Pair:
        sides = self._shp(row, place) or {
            purpose: self.columns.value(row, purpose, place=place) for purpose in ("chosen", "rejected")
        }
        chosen, rejected = (as_text(value, place=place, key=name) for name, value in sides.values())
        if isinstance(chosen, str) != isinstance(rejected, str):
            raise DataError(
                f"{place}: one of chosen and rejected is text and the other a list of messages; give both in one form"
            )
        name = self.columns.name(row, "prompt")
        given = None if name is None else self.columns.prompt(row, name)
        given = None if given in ("", []) else given
        if given is not None:
            self.columns.filled.add("prompt")
        if given is not None and name in CONVERSATIONS:  # such a column repeats a side that is a conversation
            given = None if is_conversation(chosen) else before_answer(as_text(given, place=place, key=str(name)))
            if isinstance(given, str) and name != self.prompt_key:  # for example the name of a conversation
                given = None
        if given is None and isinstance(chosen, str) and isinstance(rejected, str) and SPEAKER in chosen and SPEAKER in rejected:
            prompt: Text
            prompt, chosen, rejected = transcript(chosen, rejected, place=place)
        elif given is None:
            others = ", ".join(map(repr, (key for key in row if key != name)))
            keys = f"no {self.prompt_key!r} here, only {others}" if name != self.prompt_key else f"nothing in {name!r}"
            prompt, chosen, rejected = implied_prompt(chosen, rejected, place=place, missing=keys)
        elif isinstance(given, str) and is_conversation(chosen) and not goes_on(given, chosen):
            prompt, chosen, rejected = implied_prompt(
                chosen, rejected, place=place, missing="a prompt of text beside conversations"
            )
        else:
            text = as_text(given, place=place, key=str(name))
            (prompt, chosen), (_, rejected) = (continuation(text, completion) for completion in (chosen, rejected))
        return Pair(prompt=prompt, chosen=chosen, rejected=rejected, scores=self._scores(row, place), source=place)

    def _shp(self, row: Mapping[str, Any], place: str) -> dict[str, tuple[str, Any]] | None:
        """The sides of a row of SHP (two texts, and a label for the better one) as (column, value); None for other rows."""
        names = ("human_ref_A", "human_ref_B")
        if self.chosen_key in row or not all(name in row for name in (*names, "labels")):
            return None
        self.columns.read.update((*names, "labels"))
        better, worse = names if as_label(row["labels"], place=place, key="labels") else names[::-1]
        self.columns.recognised |= {"chosen": "human_ref_A or human_ref_B, as labels says"}
        return {"chosen": (better, row[better]), "rejected": (worse, row[worse])}

    def _scores(self, row: Mapping[str, Any], place: str) -> tuple[float, float] | None:
        given = self.chosen_score_key, self.rejected_score_key
        names = first_of(row, SCORES) if None in given else [str(name) for name in given]
        if names is None:
            return None
        for purpose in ("chosen_score", "rejected_score") if None not in given else ():
            self.columns.name(row, purpose)  # raises if two purposes share a column
        chosen = column(row, names[0], place=place, setting="task.chosen_score_key")
        rejected = column(row, names[1], place=place, setting="task.rejected_score_key")
        try:
            better, worse = finite(float(chosen)), finite(float(rejected))
        except (TypeError, ValueError):
            better = worse = None
        if better is not None and worse is not None:
            self.columns.read.update(names)
            return better, worse
        if None in given:  # ratings in words, recognised only by the column's name
            return None
        raise DataError(f"{place}: scores {chosen!r} and {rejected!r} are not both finite numbers; fix them or leave the row out")

    def facts(self) -> Mapping[str, str]:
        return {"pairs": f"{len(self.pairs())} to learn from, {len(self.held_out_pairs())} held out, from {self.path}"}


def implied_prompt(chosen: Text, rejected: Text, *, place: str, missing: str = "no prompt") -> tuple[Text, Text, Text]:
    """(prompt, chosen, rejected) with the common beginning as the prompt: whole messages, or text up to the last white space."""
    size = 0
    while size < min(len(chosen), len(rejected)) and chosen[size] == rejected[size]:
        size += 1
    if isinstance(chosen, tuple):
        while size > 0 and chosen[size - 1]["role"] == "assistant":  # equal answers do not belong to the prompt
            size -= 1
    elif size < min(len(chosen), len(rejected)) or len(chosen) != len(rejected):
        size = max(chosen.rfind(" ", 0, size), chosen.rfind("\n", 0, size)) + 1
    if size == 0:
        lacks = (
            f"there is {missing}, and chosen and rejected have no common beginning to be the prompt; give a prompt, or say which "
            "key holds it with task.prompt_key"
        )
        raise AbsentError(place, lacks, purpose="prompt")
    return chosen[:size], chosen[size:], rejected[size:]


def transcript(chosen: str, rejected: str, *, place: str) -> tuple[Text, Text, Text]:
    """(prompt, chosen, rejected) of two transcripts of a dialogue: the prompt ends where the assistant speaks last."""
    ends = [text.rindex(SPEAKER) + len(SPEAKER) for text in (chosen, rejected)]
    if chosen[: ends[0]] != rejected[: ends[1]]:
        return implied_prompt(chosen, rejected, place=place)
    return chosen[: ends[0]], chosen[ends[0] :], rejected[ends[1] :]
