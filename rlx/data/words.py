"""Tokenises texts word by word, each distinct word once, for tokenizers whose tokens never cross a single space."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, count, islice, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE

from rlx.data.sequences import Tokens

_BETWEEN_WORDS = re.compile(r" (?<=\S )(?=\S)")
_MOST_KEPT, _MOST_CHARACTERS = 50_000, 2_000_000  # limits of the cache of word tokens: about 50 MB
_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Patterns in which a piece never continues over a single space between two other characters; a new piece begins there.
_PATTERNS = {_LLAMA_3, _LLAMA_3.replace("{1,3}", "")}  # the second is that of Qwen 2 and 2.5


def parts_at_spaces(tokenizer: Any) -> bool:
    """Whether a text may be split before a single space between two other characters: the parts have the tokens of the whole.

    True if byte-level BPE uses the pattern of GPT-2, Llama 3 or Qwen 2, in which a word includes the space before it, and no
    added token contains a space or absorbs white space beside it. For any other tokenizer it is unknown, so False.
    """
    if not tokenizer.is_fast or getattr(tokenizer, "split_special_tokens", False):
        return False
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.model, BPE) or backend.model.dropout or backend.pre_tokenizer is None:
        return False
    if backend.normalizer is not None and type(backend.normalizer) is not normalizers.NFC:
        return False
    if any(" " in t.content or t.lstrip or t.rstrip or t.single_word for t in tokenizer.added_tokens_decoder.values()):
        return False
    after = {} if backend.post_processor is None else json.loads(backend.post_processor.__getstate__())
    if any(step.get("trim_offsets") for step in after.get("processors", [after])):
        return False  # the first token of a text would begin at another position than that of a word
    made = json.loads(backend.pre_tokenizer.__getstate__())
    steps = [_step(step) for step in made.get("pretokenizers", [made])]
    return None not in steps and True in steps


def _step(made: dict[str, Any]) -> bool | None:
    """Whether a pre-tokenizer step begins pieces at spaces; None if it may join text across a space."""
    if made["type"] == "Split" and made["pattern"].get("Regex") in _PATTERNS and made["behavior"] == "Isolated":
        return None if made["invert"] else True
    if made["type"] == "ByteLevel" and not made["add_prefix_space"]:
        return bool(made["use_regex"])
    return False if made["type"] == "Digits" else None


class WordTokens:
    """Tokenises texts by their words. encode: a fast tokenizer's batch encoding, one Encoding per text."""

    def __init__(self, encode: Callable[[list[str]], Sequence[Any]]) -> None:
        self._encode = encode
        self._forget()

    def _forget(self) -> None:
        # A word at the beginning of a text is stored with a space before it, any other word without its leading space.
        self._numbers: dict[str, int] = defaultdict(count().__next__)
        self._encodings: list[Any] = []
        self._tokens = self._sizes = self._lengths = np.zeros(0, dtype=np.int64)  # of each word its tokens, characters

    @staticmethod
    def copied(tokenizer: Any) -> WordTokens | None:
        """An instance with a copy of a tokenizer, usable in another thread; None if the tokenizer joins words."""
        if not parts_at_spaces(tokenizer):
            return None
        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        return WordTokens(partial(copy.encode_batch, add_special_tokens=False))

    def of(self, texts: Sequence[str]) -> list[tuple[Tokens, WordPlaces]]:
        """For each text int64 [T], its tokens, and their positions."""
        if len(self._encodings) > _MOST_KEPT or int(self._lengths.sum()) > _MOST_CHARACTERS:
            self._forget()
        words = [_BETWEEN_WORDS.split(text) for text in texts]
        for own in words:
            own[0] = f" {own[0]}"
        edges = [0, *accumulate(map(len, words))]
        which = np.fromiter(map(self._numbers.__getitem__, chain.from_iterable(words)), np.int64, edges[-1])
        self._learn()
        sizes, lengths = self._sizes, self._lengths
        counts = sizes[which]
        ends, characters = (np.concatenate([[0], each.cumsum()]) for each in (counts, lengths[which]))
        before = (sizes.cumsum() - sizes)[which] - ends[:-1]  # from a place among all tokens to that in those of the words
        tokens = self._tokens[np.repeat(before, counts) + np.arange(int(ends[-1]))]
        cuts = ends[edges].tolist()
        places = (WordPlaces(which, ends, characters, self._encodings, begin, end) for begin, end in pairwise(edges))
        return [(tokens[begin:end], place) for (begin, end), place in zip(pairwise(cuts), places, strict=True)]

    def _learn(self) -> None:
        """Tokenise the words that have an index but no tokens yet."""
        new = list(islice(reversed(self._numbers), len(self._numbers) - len(self._encodings)))[::-1]
        if not new:
            return
        texts = [word[1:] if word[:1] == " " else f" {word}" for word in new]
        encodings = self._encode(texts)
        ids = [encoding.ids for encoding in encodings]
        self._encodings.extend(encodings)
        self._tokens = np.concatenate([self._tokens, np.fromiter(chain.from_iterable(ids), np.int64)])
        self._sizes = np.concatenate([self._sizes, np.fromiter(map(len, ids), np.int64, len(new))])
        self._lengths = np.concatenate([self._lengths, np.fromiter(map(len, texts), np.int64, len(new))])


@dataclass(frozen=True, eq=False)
class WordPlaces:
    """The positions of the tokens of a text, with the interface of an Encoding of the whole text.

    which: int64 [W], the index in `encodings` of each word of many texts. tokens, characters: int64 [W + 1], how many come
    before each word. first, last: the words of this text.
    """

    which: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray
    encodings: Sequence[Any]
    first: int
    last: int

    def char_to_token(self, place: int) -> int | None:
        """The first token that contains the character at a position; None without one."""
        begin = int(self.characters[self.first])
        word = int(self.characters.searchsorted(begin + place, side="right")) - 1
        if word >= self.last:
            return None
        found = self.encodings[self.which[word]].char_to_token(begin + place - int(self.characters[word]))
        return None if found is None else int(self.tokens[word] - self.tokens[self.first]) + int(found)

    def token_to_chars(self, token: int) -> tuple[int, int] | None:
        """The begin and end of a token; None without one."""
        begin = int(self.tokens[self.first])
        word = int(self.tokens.searchsorted(begin + token, side="right")) - 1
        if word >= self.last:
            return None
        found = self.encodings[self.which[word]].token_to_chars(begin + token - int(self.tokens[word]))
        at = int(self.characters[word] - self.characters[self.first])
        return None if found is None else (found[0] + at, found[1] + at)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """The begin and end of each token."""
        own = slice(self.first, self.last)
        words = zip((self.characters[own] - self.characters[self.first]).tolist(), self.which[own].tolist(), strict=True)
        return [(start + at, end + at) for at, word in words for start, end in self.encodings[word].offsets]
