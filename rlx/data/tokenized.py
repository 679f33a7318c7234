"""Preference pairs of a task as tokens: selection, the split into prompt and completion, and a cache of the result.

Dimensions: T tokens; G = 2, chosen before rejected.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.pair_tokens import PairTokens
from rlx.data.remarks import REFUSED
from rlx.data.sequences import Sequences
from rlx.data.stores import TokenStore
from rlx.data.tokens import TextEncoder
from rlx.data.turns import REASONING
from rlx.errors import DataError
from rlx.garbage import collection_paused
from rlx.task.base import Pairs, is_learned

if TYPE_CHECKING:
    from rlx.data.pair_tokens import Row
    from rlx.task.base import Message, Pair

_BESIDE = ("tool_calls", *REASONING)  # message fields with content besides `content`
_MOST_KEPT = 20_000  # largest number of pairs whose tokens are kept in memory for the next model of the process

# Why a pair was left out, and what to do about it.
DROPPED = {
    "lacking": "lack something that training needs",
    "empty": "have an empty completion, no answer of the assistant (or only of weight 0), an empty one, or one that begins "
    "with a token that ends generation",
    "equal": "have the same completion as chosen and as rejected",
    "too_long": "are longer than the policy can read; raise policy.max_length, or cut prompts with policy.max_prompt_length",
    **REFUSED,
}


@dataclass(frozen=True, eq=False)
class TokenizedPairs:
    """All pairs of a task that can be learned from, in the task's order.

    sequences: G = 2. index: int64 [number kept], the index of each pair in the task.
    dropped: reason -> number of pairs left out. truncated: number of prompts that lost their beginning.
    remarks: key of rlx.data.remarks.REMARKS -> number of pairs with this difference from the data.
    shown: reason or remark -> the first pair concerned, and the chat template's message about it.
    scores: [number kept, 2] or None; label, has_label: bool [number kept, 2] or None.
    recurs: the pairs belong to a task and are drawn repeatedly, so that results for them are worth caching.
    largest: the largest token id; 0 if it was not computed.
    """

    sequences: Sequences
    index: np.ndarray
    dropped: Mapping[str, int] = field(default_factory=dict)
    truncated: int = 0
    remarks: Mapping[str, int] = field(default_factory=dict)
    shown: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    scores: Tensor | None = None
    label: Tensor | None = None
    has_label: Tensor | None = None
    recurs: bool = False
    largest: int = 0

    def __len__(self) -> int:
        return len(self.sequences)

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 [number kept], tokens of the prompt and both completions."""
        parts = zip(self.sequences.prompts, self.sequences.completions, strict=True)
        return np.array([len(prompt) + sum(map(len, group)) for prompt, group in parts], dtype=np.int64)

    def require_some(self, what: str) -> None:
        """Raise DataError with the reasons if every pair was dropped. what: names the pairs in the message."""
        if len(self) == 0 and self.dropped:
            reasons = ", ".join(f"{count} {DROPPED[reason]}{self._said(reason)}" for reason, count in self.dropped.items())
            raise DataError(f"none of the {sum(self.dropped.values())} {what} is left: {reasons}")

    def _said(self, reason: str) -> str:
        said = self.shown.get(reason, (0, ""))[1]
        return f" ({said})" if said else ""

    @staticmethod
    def of(
        pairs: Sequence[Pair], text: TextEncoder, *, max_length: int | None = None, store: TokenStore | None = None
    ) -> TokenizedPairs:
        """Tokenise `pairs`. max_length: the model's positions; the smaller of it and the encoder's own limit applies.

        store: caches the tokens for later runs.

        A pair is dropped, and counted, if a completion is empty, if both completions are equal, or if prompt and completion are
        too long after the prompt was cut. Completions are never cut: one without its end would teach the policy not to stop.
        The absent side of a single completion (Pair.label) has no tokens.
        """
        with collection_paused():
            return TokenizedPairs._of(pairs, text, max_length=max_length, store=store)

    @staticmethod
    def _of(pairs: Sequence[Pair], text: TextEncoder, *, max_length: int | None, store: TokenStore | None) -> TokenizedPairs:
        limit = min((n for n in (max_length, text.max_length) if n is not None), default=None)
        store = store or TokenStore(None)
        name = ""
        if store.keeps and isinstance(pairs, Pairs):
            name = store.name_of(text, _source(), pairs.name, limit, text.max_prompt_length)
        known = _known(name, pairs, text, store) if name else None
        found, chosen = _choose(pairs, text, limit, store) if known is None else known
        if name and known is None:
            store.write(name, vars(chosen))
        prompts = _kept_lengths(found, text)
        index = np.array(chosen.tried, dtype=np.int64)[chosen.kept]
        own = [pairs[row] for row in index.tolist()]
        truncated = int((prompts < found.lengths[:, 0])[chosen.kept].sum())
        found = found.only(chosen.kept, prompts)
        return TokenizedPairs(
            _sequences(found, own),
            index,
            chosen.dropped,
            truncated,
            chosen.remarks,
            chosen.shown,
            **_columns(own),
            recurs=True,
            largest=int(found.tokens.max(initial=0)),
        )


@cache
def _source() -> str:
    """The source code that selects pairs, which is part of the cache key."""
    return Path(__file__).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Choice:
    """The selection of pairs.

    tokens: the name in a TokenStore of the tokens of the `tried` pairs. kept: indices into `tried`. The other fields are as in
    TokenizedPairs.
    """

    tokens: str
    tried: list[int]
    kept: list[int]
    dropped: dict[str, int]
    remarks: dict[str, int]
    shown: dict[str, tuple[int, str]]


@dataclass(frozen=True)
class _Rows(Sequence["Row"]):
    """The parts of pairs to tokenise, created on demand."""

    pairs: Sequence[Pair]
    tried: Sequence[int]

    def __len__(self) -> int:
        return len(self.tried)

    def __getitem__(self, place: Any) -> Any:
        pair = self.pairs[self.tried[place]]
        return (*split_prompt(pair.prompt, *_both(pair)), pair.tools)


def _known(name: str, pairs: Sequence[Pair], text: TextEncoder, store: TokenStore) -> tuple[PairTokens, _Choice] | None:
    """The selection stored under a name for these pairs; None if it, or the tokens, are absent."""
    kept = store.read(name)
    if kept is None or kept.keys() != _Choice.__dataclass_fields__.keys():
        return None
    shown = {reason: (row, said) for reason, (row, said) in kept["shown"].items()}
    chosen = _Choice(**{**kept, "shown": shown})
    found = store.read_pairs(chosen.tokens, text, _Rows(pairs, chosen.tried)) if chosen.tried else PairTokens.of(text, [])
    return None if found is None else (found, chosen)


def _kept_lengths(found: PairTokens, text: TextEncoder) -> np.ndarray:
    """int64 [P], the number of tokens kept of each prompt."""
    lengths: np.ndarray = np.minimum(found.lengths[:, 0], text.max_prompt_length or found.lengths[:, 0])
    return lengths


def _choose(pairs: Sequence[Pair], text: TextEncoder, limit: int | None, store: TokenStore) -> tuple[PairTokens, _Choice]:
    """Tokenise the pairs, and select those that can be learned from."""
    dropped, remarks = _Counts(), _Counts()
    tried: list[int] = []
    rows: list[Row] = []
    ends = text.template.ends
    for row, pair in enumerate(pairs):
        if pair.lacks:
            dropped.add("lacking", row, pair.lacks)
            continue
        prompt, *both = split_prompt(pair.prompt, *_both(pair))
        if _far_too_long(prompt, both, text, limit):  # tokenising it would take minutes
            dropped.add("too_long", row)
        elif is_empty(both[0], ends) or is_empty(both[1], ends):
            dropped.add("empty", row)
        else:
            tried.append(row)
            rows.append((prompt, both[0], both[1], pair.tools))
    name = store.name(text, rows) if store.keeps else ""
    found = store.encode_pairs(text, rows, name)
    prompts = _kept_lengths(found, text)
    too_long = np.zeros(len(found), dtype=bool) if limit is None else prompts + found.lengths[:, 1:].max(axis=1) > limit
    kept: list[int] = []
    facts = zip(tried, found.has_equal_sides().tolist(), too_long.tolist(), found.remarks.tolist(), strict=True)
    for place, (row, is_equal, is_too_long, has_remarks) in enumerate(facts):
        if place in found.refused:
            dropped.add(found.refused[place][0], row, found.refused[place][1])
        elif is_equal and pairs[row].label is None:
            dropped.add("equal", row)
        elif is_too_long:
            dropped.add("too_long", row)
        else:
            kept.append(place)
            for remark in found.remarks_of(place) if has_remarks else ():
                remarks.add(remark, row)
    shown = {**dropped.shown, **remarks.shown}
    return found, _Choice(name, tried, kept, dropped.in_order(), remarks.in_order(), shown)


class _Counts:
    """The number of pairs for each reason, and the first of them."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self.shown: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, row: int, said: str = "") -> None:
        """Count one pair."""
        self._counts[reason] += 1
        if reason not in self.shown or row < self.shown[reason][0]:
            self.shown[reason] = (row, said)

    def in_order(self) -> dict[str, int]:
        """Reason -> number of pairs, in the order of their first pairs."""
        return dict(sorted(self._counts.items(), key=lambda item: self.shown[item[0]][0]))


def _sequences(found: PairTokens, pairs: Sequence[Pair]) -> Sequences:
    """The tokens of the kept pairs; the absent side of a single completion has none."""
    prompts, groups, learned = found.parts()
    if any(pair.label is not None for pair in pairs):
        groups = tuple(_present(group, pair.label) for group, pair in zip(groups, pairs, strict=True))
        if learned is not None:
            learned = tuple(_present(group, pair.label) for group, pair in zip(learned, pairs, strict=True))
    if learned is not None and all(side.all() for group in learned for side in group):
        learned = None
    return Sequences(prompts, groups, learned=learned)


_of_process: deque[tuple[Sequence[Pair], tuple[object, ...], TokenizedPairs]] = deque(maxlen=4)


class PairTokenizer:
    """Tokenises pairs for one model, and keeps the latest results in memory.

    text: how text becomes tokens. name, max_length, vocabulary_size: of the model; max_length None if unknown.
    store: caches the tokens for later runs; None: memory only.
    """

    def __init__(
        self,
        text: TextEncoder,
        *,
        name: str,
        max_length: int | None,
        vocabulary_size: int,
        store: TokenStore | None = None,
    ) -> None:
        self.text = text
        self.name = name
        self.max_length = max_length
        self.vocabulary_size = vocabulary_size
        self.store = store
        self._latest: list[tuple[Sequence[Pair], TokenizedPairs]] = []

    def __call__(self, pairs: Sequence[Pair]) -> TokenizedPairs:
        """The pairs as tokens; the same object for the same pairs.

        Raises DataError for tokens without an embedding in the model.
        """
        for known, tokenized in self._latest:
            if known is pairs or (len(known) == len(pairs) and all(a is b for a, b in zip(known, pairs, strict=True))):
                return tokenized
        tokenized = self._of_the_process(pairs)
        self._require_known_tokens(tokenized.largest)
        self._latest = [*self._latest[-3:], (pairs, tokenized)]
        return tokenized

    def _of_the_process(self, pairs: Sequence[Pair]) -> TokenizedPairs:
        """The pairs as tokens, kept for other models of this process with the same tokenizer, such as the jobs of a sweep."""
        if not isinstance(pairs, tuple) or len(pairs) > _MOST_KEPT:  # a list could be modified in place
            return TokenizedPairs.of(pairs, self.text, max_length=self.max_length, store=self.store)
        like = (self.text.identity(), self.text.max_length, self.text.max_prompt_length, self.max_length)
        for known, kind, tokenized in _of_process:
            if known is pairs and kind == like:
                return tokenized
        tokenized = TokenizedPairs.of(pairs, self.text, max_length=self.max_length, store=self.store)
        _of_process.append((pairs, like, tokenized))
        return tokenized

    def _require_known_tokens(self, largest: int) -> None:
        """Raise DataError for tokens without an embedding in the model, which a tokenizer with added tokens may produce."""
        if largest >= self.vocabulary_size:
            raise DataError(
                f"{self.name}: the tokenizer gives token {largest}, but the model knows only {self.vocabulary_size}; "
                "tokenizer and model do not belong together"
            )


def split_prompt(prompt: Any, chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """Prompt and completions. For whole conversations, the common prompt is removed from the completions."""
    if isinstance(chosen, str) or isinstance(rejected, str):
        return prompt, chosen, rejected
    chosen, rejected = tuple(chosen), tuple(rejected)
    if not isinstance(prompt, str) and len(prompt) == 0:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        return chosen[:shared], chosen[shared:], rejected[shared:]
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    chosen, rejected = (turns[len(messages) :] if turns[: len(messages)] == messages else turns for turns in (chosen, rejected))
    return messages, chosen, rejected


def _both(pair: Pair) -> tuple[Any, Any]:
    """Both completions; if one is absent, the other one twice."""
    if pair.label is None:
        return pair.chosen, pair.rejected
    return (pair.chosen, pair.chosen) if pair.label[0] is not None else (pair.rejected, pair.rejected)


def _present(group: tuple[Any, Any], label: tuple[bool | None, bool | None] | None) -> tuple[Any, Any]:
    """The group without the tokens of the side that has no label."""
    if label is None:
        return group
    first, second = (side if known is not None else side[:0] for side, known in zip(group, label, strict=True))
    return first, second


def is_empty(completion: Any, ends: tuple[str, ...] = ()) -> bool:
    """Whether a completion, or an answer in it, is empty: without text before one of `ends`, reasoning or a tool call."""
    if isinstance(completion, str):
        return _is_silent(completion, ends)
    silent = [is_learned(message) for message in completion if _says_nothing(message, ends)]
    return len(silent) == len(completion) or any(silent)


def _says_nothing(message: Message, ends: tuple[str, ...]) -> bool:
    return _is_silent(str(message.get("content") or ""), ends) and not any(message.get(name) for name in _BESIDE)


def _is_silent(text: str, ends: tuple[str, ...]) -> bool:
    said = text.lstrip()
    return said == "" or said.startswith(ends)


def _far_too_long(prompt: Any, both: Sequence[Any], text: TextEncoder, limit: int | None) -> bool:
    """Whether a pair's characters alone exceed the limit: 8 times as many as `limit` of the longest tokens hold.

    False if the prompt is the longer part and may be cut.
    """
    if limit is None:
        return False
    before, after = _length(prompt), max(_length(both[0]), _length(both[1]))
    if text.max_prompt_length is not None and before >= after:
        return False
    return before + after > 8 * limit * text.longest_token


def _length(said: Any) -> int:
    """The number of characters of a prompt or completion."""
    return len(said) if isinstance(said, str) else sum([len(str(message.get("content") or "")) for message in said])


def _columns(pairs: Sequence[Pair]) -> dict[str, Tensor | None]:
    """The optional columns: scores if all pairs have them, labels if any has one."""
    scores = [pair.scores for pair in pairs if pair.scores is not None]
    columns: dict[str, Tensor | None] = {
        "scores": torch.tensor(scores, dtype=torch.float32) if scores and len(scores) == len(pairs) else None
    }
    if any(pair.label is not None for pair in pairs):
        labels = [(True, False) if pair.label is None else pair.label for pair in pairs]
        columns["label"] = torch.tensor([[bool(value) for value in row] for row in labels])
        columns["has_label"] = torch.tensor([[value is not None for value in row] for row in labels])
    return columns
