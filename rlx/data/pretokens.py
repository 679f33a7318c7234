"""Byte-level BPE of ASCII text, pre-token by pre-token: each different one is merged once, by the tokenizer's own model.

A fast tokenizer spends most of its time on where the tokens of a text lie. For ASCII text under a byte-level BPE that follows
from the lengths of the tokens, so words that were seen before cost no more than finding them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from rlx.data.cut import cutting_marks
from rlx.data.turns import special_pattern

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How byte-level tokenizers cut text into pre-tokens, as their description says, and the same for ASCII text.
_GPT2_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
_SPLITS = {source: source for source in (_GPT2, _QWEN2, _QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|"))}
_MOST_WORDS, _LONGEST_WORD = 500_000, 64  # that are kept
_BYTES = {**{byte: chr(256 + byte) for byte in range(33)}, 127: chr(289)}  # ASCII that a byte-level BPE writes otherwise
_PROBES = (
    "I'm  here:\n\n\tx=3.14159,  (a_b) 12345 \r\n it's ",
    " \n ",
    "  a\n  b 1  2",
    "DON'T\t\tstop!?\n",
    "\x00\x1c\x7f a\x0bb",
)


@dataclass(frozen=True, eq=False)
class TokenPlaces:
    """Where the tokens of a text lie in it, with the methods of a tokenizer's encoding. ends: int64 [T]."""

    ends: np.ndarray

    def char_to_token(self, place: int) -> int | None:
        """The token in which the character at a place lies; None beyond the text."""
        token = int(self.ends.searchsorted(place, side="right"))
        return token if token < len(self.ends) else None

    def token_to_chars(self, token: int) -> tuple[int, int]:
        """Where a token begins and ends."""
        return int(self.ends[token - 1]) if token else 0, int(self.ends[token])

    @property
    def offsets(self) -> np.ndarray:
        """int64 [T, 2], where each token begins and ends."""
        return np.stack([np.concatenate([[0], self.ends[:-1]]), self.ends], axis=1)


class PretokenEncoder:
    """Gives texts the tokens that a tokenizer gives them, where `of` knows how it cuts text."""

    def __init__(self, tokenizer: Any, words: re.Pattern[str], leading: Sequence[int]) -> None:
        self._model = tokenizer.backend_tokenizer.model
        self._tokenizer = tokenizer
        self._words = words
        self._leading = tuple(leading)
        self._known = _Known(self._merged)

    @staticmethod
    def of(tokenizer: Any) -> PretokenEncoder | None:
        """The encoder of a tokenizer; None where it is not a byte-level BPE whose pre-tokens are known here."""
        words = _words_of(tokenizer)
        if words is None:
            return None
        one = tokenizer.backend_tokenizer.encode("a", add_special_tokens=True)
        made = PretokenEncoder(tokenizer, words, one.ids[: one.special_tokens_mask.index(0)])
        return made if all(made.agrees(probe, special=special) for probe in _PROBES for special in (False, True)) else None

    def agrees(self, text: str, *, special: bool) -> bool:
        """Whether the tokenizer gives a text the same tokens, and sees them at the same places."""
        made = self.encode(text, special=special)
        if made is None:
            return True
        ids, places, leading = made
        whole = self._tokenizer([text], add_special_tokens=special).encodings[0]
        size = len(whole.ids) - next((n for n, added in enumerate(reversed(whole.special_tokens_mask)) if not added), 0)
        offsets = [list(place) for place in whole.offsets[leading:size]]
        return bool(ids == whole.ids[:size] and offsets == places.offsets[leading:].tolist())

    def encode(self, text: str, *, special: bool) -> tuple[list[int], TokenPlaces, int] | None:
        """The tokens of a text without those that close it, their places, and how many of them were put before it.

        None where only the tokenizer itself knows: text that is not ASCII, or has an added token that takes white space with it.
        """
        if not text or not text.isascii():
            return None
        parts = self._marks.split(text)
        if not self._plain_marks.issuperset(parts[1::2]):
            return None
        find, known = self._words.findall, self._known
        cut = ((part,) if place % 2 else find(part) for place, part in enumerate(parts) if part)
        words = find(text) if len(parts) == 1 else list(chain.from_iterable(cut))
        try:
            own = chain.from_iterable(map(known.__getitem__, words))
            ids = [*self._leading, *own] if special else list(own)
        except _UnknownBytesError:
            return None
        lengths = self._lengths[ids]
        leading = len(self._leading) if special else 0
        lengths[:leading] = 0
        return ids, TokenPlaces(lengths.cumsum()), leading

    def _merged(self, word: str) -> tuple[int, ...]:
        """The tokens of one pre-token."""
        mark = self._added.get(word)
        if mark is not None:
            return (mark,)
        tokens = self._model.tokenize(word.translate(_BYTES))
        if sum(len(token.value) for token in tokens) != len(word):
            raise _UnknownBytesError
        return tuple(token.id for token in tokens)

    @cached_property
    def _added(self) -> dict[str, int]:
        return {token.content: number for number, token in self._tokenizer.added_tokens_decoder.items()}

    @cached_property
    def _marks(self) -> re.Pattern[str]:
        return re.compile(f"({special_pattern(self._added).pattern})")

    @cached_property
    def _plain_marks(self) -> frozenset[str]:
        """The added tokens that are found wherever they are spelled, and take no white space around them."""
        rstrip = {token.content for token in self._tokenizer.added_tokens_decoder.values() if token.rstrip}
        return frozenset(cutting_marks(self._tokenizer, self._added)) - rstrip

    @cached_property
    def _lengths(self) -> np.ndarray:
        """int64 [V], characters of each token."""
        vocabulary: Mapping[str, int] = self._tokenizer.get_vocab()
        lengths = np.zeros(max(vocabulary.values()) + 1, dtype=np.int64)
        for token, number in vocabulary.items():
            lengths[number] = len(token)
        return lengths


class _Known(dict[str, tuple[int, ...]]):
    """Word -> its tokens, which `merged` gives where they are not known; bounded."""

    def __init__(self, merged: Callable[[str], tuple[int, ...]]) -> None:
        super().__init__()
        self._merged = merged

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self._merged(word)
        if len(word) <= _LONGEST_WORD:
            if len(self) >= _MOST_WORDS:
                self.clear()
            self[word] = ids
        return ids


class _UnknownBytesError(Exception):
    """A word has bytes that the vocabulary has no token of."""


def _words_of(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds the pre-tokens of ASCII text; None where the tokenizer is no byte-level BPE with known pre-tokens."""
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    if not tokenizer.is_fast or type(tokenizer)._encode_plus is not PreTrainedTokenizerFast._encode_plus:
        return None
    backend = tokenizer.backend_tokenizer
    model = backend.model
    if not isinstance(model, BPE) or model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    if not all(kind["type"] in ("NFC", "NFD", "NFKC", "NFKD") for kind in _steps(backend.normalizer, "normalizers")):
        return None  # those that are named leave ASCII as it is
    for kind in _steps(backend.post_processor, "processors"):
        if kind["type"] != "TemplateProcessing" and (kind["type"] != "ByteLevel" or kind["trim_offsets"]):
            return None
    source = _source_of(_steps(backend.pre_tokenizer, "pretokenizers"))
    if source is None:
        return None
    ascii_only = source.replace(r"[^\s\p{L}\p{N}]", r"[^\sA-Za-z0-9]").replace(r"[^\r\n\p{L}\p{N}]", r"[^\r\nA-Za-z0-9]")
    ascii_only = ascii_only.replace(r"[^\s\p{N}]", r"[^\s0-9]").replace(r"\p{L}", "[A-Za-z]").replace(r"\p{N}", "[0-9]")
    return re.compile(ascii_only, re.ASCII)


def _steps(component: Any, parts: str) -> list[dict[str, Any]]:
    """The descriptions of a tokenizer's component, in the order in which they are applied."""
    if component is None:
        return []
    described = json.loads(component.__getstate__())
    return list(described[parts]) if described["type"] == "Sequence" else [described]


def _source_of(steps: Sequence[Mapping[str, Any]]) -> str | None:
    """The regular expression of the pre-tokens; None where it is not known."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    before, cuts_words = steps[:-1], steps[-1]["use_regex"]
    if not before:
        return _GPT2 if cuts_words else None
    if len(before) > 1:
        return None
    kind = before[0]
    if kind["type"] == "Digits":
        return _GPT2_DIGITS if cuts_words and kind["individual_digits"] else None
    if kind["type"] != "Split" or cuts_words or kind["behavior"] != "Isolated" or kind["invert"]:
        return None
    return _SPLITS.get(kind["pattern"].get("Regex", ""))
