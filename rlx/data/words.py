"""Tokenises texts word by word, each different word once, for tokenizers that never join what a single space parts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers
from tokenizers.models import BPE

from rlx.data.sequences import Tokens

_BEFORE_WORDS = re.compile(r"(?<=\S)(?= \S)")
_MOST_KEPT, _LONGEST_KEPT = 50_000, 48  # words whose tokens are remembered, and their characters: some 40 MB
_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Patterns in which no piece goes on over a space that stands alone between two other characters: a piece begins with it.
_PATTERNS = {_LLAMA_3, _LLAMA_3.replace("{1,3}", "")}  # the second is that of Qwen 2 and 2.5


def parts_at_spaces(tokenizer: Any) -> bool:
    """Whether a text may be cut before a single space between two other characters: the parts have the tokens of the whole.

    So it is where byte-level BPE follows the pattern of GPT-2, Llama 3 or Qwen 2, in which a word takes the space before it, and
    no added token has a space or takes the white space beside it. Of any other tokenizer it is not known.
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
        return False  # the first token of a text begins elsewhere than that of a word
    made = json.loads(backend.pre_tokenizer.__getstate__())
    steps = [_step(step) for step in made.get("pretokenizers", [made])]
    return None not in steps and True in steps


def _step(made: dict[str, Any]) -> bool | None:
    """Whether a step of a pre-tokenizer begins pieces at spaces; None where it may join what a space parts."""
    if made["type"] == "Split" and made["pattern"].get("Regex") in _PATTERNS and made["behavior"] == "Isolated":
        return None if made["invert"] else True
    if made["type"] == "ByteLevel" and not made["add_prefix_space"]:
        return bool(made["use_regex"])
    return False if made["type"] == "Digits" else None


@dataclass(frozen=True)
class WordTokens:
    """Tokenises texts by their words. encode: what a fast tokenizer makes of texts, an Encoding of each."""

    encode: Callable[[list[str]], Sequence[Any]]
    _kept: dict[str, tuple[list[int], Any]] = field(default_factory=dict)

    @staticmethod
    def copied(tokenizer: Any) -> WordTokens | None:
        """With a copy of a tokenizer, which may be at work in another thread; None where it does not part words."""
        if not parts_at_spaces(tokenizer):
            return None
        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        return WordTokens(partial(copy.encode_batch, add_special_tokens=False))

    def of(self, texts: Sequence[str]) -> list[tuple[Tokens, WordPlaces]]:
        """Of each text int64 [T], its tokens, and where they lie."""
        words = [_BEFORE_WORDS.split(text) for text in texts]
        every = list(chain.from_iterable(words))
        number = {word: place for place, word in enumerate(dict.fromkeys(every))}
        which = np.fromiter(map(number.__getitem__, every), np.int64, len(every))
        ids, encodings = self._made(list(number))
        sizes = np.fromiter(map(len, ids), np.int64, len(ids))
        flat = np.fromiter(chain.from_iterable(ids), np.int64, int(sizes.sum()))
        counts, lengths = sizes[which], np.fromiter(map(len, number), np.int64, len(number))[which]
        ends, characters = (np.concatenate([[0], each.cumsum()]) for each in (counts, lengths))
        before = (sizes.cumsum() - sizes)[which] - ends[:-1]  # from a place among all tokens to that in `flat`
        tokens = flat[np.repeat(before, counts) + np.arange(int(ends[-1]))]
        edges = list(accumulate(map(len, words), initial=0))
        cuts = ends[edges].tolist()
        places = (WordPlaces(which, ends, characters, encodings, begin, end) for begin, end in pairwise(edges))
        return [(tokens[begin:end], place) for (begin, end), place in zip(pairwise(cuts), places, strict=True)]

    def _made(self, words: list[str]) -> tuple[list[list[int]], list[Any]]:
        """The tokens of each word, and its Encoding."""
        if len(self._kept) > _MOST_KEPT:
            self._kept.clear()
        new = [word for word in words if word not in self._kept]
        made = {word: (encoding.ids, encoding) for word, encoding in zip(new, self.encode(new), strict=True)} if new else {}
        self._kept.update((word, known) for word, known in made.items() if len(word) <= _LONGEST_KEPT)
        known = [made.get(word) or self._kept[word] for word in words]
        return [ids for ids, _ in known], [encoding for _, encoding in known]


@dataclass(frozen=True, eq=False)
class WordPlaces:
    """Where the tokens of a text lie in it, as an Encoding of the whole says it.

    which: int64 [W], the number in `encodings` of each word of many texts. tokens, characters: int64 [W + 1], how many come
    before each word. first, last: the words of this text.
    """

    which: np.ndarray
    tokens: np.ndarray
    characters: np.ndarray
    encodings: Sequence[Any]
    first: int
    last: int

    def char_to_token(self, place: int) -> int | None:
        """The first token in which the character at a place lies; None without one."""
        begin = int(self.characters[self.first])
        word = int(self.characters.searchsorted(begin + place, side="right")) - 1
        if word >= self.last:
            return None
        found = self.encodings[self.which[word]].char_to_token(begin + place - int(self.characters[word]))
        return None if found is None else int(self.tokens[word] - self.tokens[self.first]) + int(found)

    def token_to_chars(self, token: int) -> tuple[int, int] | None:
        """Where a token begins and ends; None without one."""
        begin = int(self.tokens[self.first])
        word = int(self.tokens.searchsorted(begin + token, side="right")) - 1
        if word >= self.last:
            return None
        found = self.encodings[self.which[word]].token_to_chars(begin + token - int(self.tokens[word]))
        at = int(self.characters[word] - self.characters[self.first])
        return None if found is None else (found[0] + at, found[1] + at)

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token begins and ends."""
        own = slice(self.first, self.last)
        words = zip((self.characters[own] - self.characters[self.first]).tolist(), self.which[own].tolist(), strict=True)
        return [(start + at, end + at) for at, word in words for start, end in self.encodings[word].offsets]
