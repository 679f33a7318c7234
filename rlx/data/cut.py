"""Where the tokens of a text lie in it, and at which special tokens a text may be cut into parts that are tokenised alone."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlx.data.sequences import Learned, Tokens


@dataclass(frozen=True, eq=False)
class Cut:
    """The tokens of a text, and where each lies in it.

    encoding: what a fast tokenizer made of the text; None: places are found by `slowly`, which tokenises a part of the text.
    leading: how many tokens the tokenizer put before the text; removed: how many of them `tokens` lacks.
    """

    tokens: Tokens
    text: str
    encoding: Any = None
    leading: int = 0
    removed: int = 0
    slowly: Callable[[str], Tokens] | None = None

    def before(self, place: int, *, whole: bool = True) -> int:
        """How many tokens come before a place in the text: those that end there or earlier; not whole: that begin before it."""
        if self.slowly is not None:
            return self._slowly_before(self.slowly, place)
        token = self._token_at(place)
        if token is not None and (whole or self._begins(token) == place > self._begins(token - 1)):
            return token - self.removed
        if place >= len(self.text) and -1 < self._begins(self.removed + len(self.tokens) - 1) < place:
            return len(self.tokens)
        places = self._places
        after = np.flatnonzero(places[:, 1] > place if whole else places[:, 0] >= place)
        return int(after[0]) if len(after) else len(self.tokens)

    def straddles(self, place: int) -> bool:
        """Whether one token lies on both sides of a place."""
        token = None if self.slowly is not None else self._token_at(place)
        return token is not None and self._begins(token) < place

    def _token_at(self, place: int) -> int | None:
        """The first token of `encoding` in which the character at a place lies; None without one."""
        found: int | None = self.encoding.char_to_token(place) if place < len(self.text) else None
        if found is None and 0 < place < len(self.text) and unicodedata.combining(self.text[place]):
            return self._token_at(place - 1)  # an accent that a normalizer has put on the letter before it
        return found

    def _begins(self, token: int) -> int:
        """Where a token of `encoding` begins in the text; before the text: -1."""
        chars = self.encoding.token_to_chars(token) if token >= self.leading else None
        return -1 if chars is None else int(chars[0])

    @cached_property
    def _places(self) -> np.ndarray:
        """int64 [T, 2], where each token begins and ends in the text."""
        places = np.array(self.encoding.offsets, dtype=np.int64).reshape(-1, 2)
        places[: self.leading] = 0
        return places[self.removed : self.removed + len(self.tokens)]

    def _slowly_before(self, slowly: Callable[[str], Tokens], place: int) -> int:
        part = slowly(self.text[:place])
        most = min(len(part), len(self.tokens))
        differs = np.flatnonzero(part[:most] != self.tokens[:most])
        return int(differs[0]) if len(differs) else most


@dataclass(frozen=True, eq=False)
class JoinedCut:
    """The tokens of a text whose head was tokenised alone: places in the head are not asked for.

    head: the tokens of the head. start: where in the text the tail begins. tail: the rest, of which the first `skipped` tokens
    are not part of the text.
    """

    head: Tokens
    start: int
    tail: Cut
    skipped: int = 0

    @cached_property
    def tokens(self) -> Tokens:
        """int64 [T], those of the whole text."""
        return np.concatenate([self.head, self.tail.tokens[self.skipped :]])

    def before(self, place: int, *, whole: bool = True) -> int:
        """As Cut.before, of a place in the whole text."""
        return len(self.head) - self.skipped + self.tail.before(place - self.start, whole=whole)

    def straddles(self, place: int) -> bool:
        """As Cut.straddles, of a place in the whole text."""
        return self.tail.straddles(place - self.start)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An example as tokens.

    tokens: int64 [T], prompt and completion, which ends where generation ends. prompt_length: how many lie in the prompt.
    learned: bool [T - prompt_length], which of the completion's the assistant wrote; None: all. remarks: keys of REMARKS.
    refused: a key of REFUSED and what was said; None of an example that is safe to learn.
    """

    tokens: Tokens
    prompt_length: int
    learned: Learned | None = None
    remarks: frozenset[str] = frozenset()
    refused: tuple[str, str] | None = None

    def with_remark(self, remark: str) -> Encoded:
        """The same with a further remark."""
        return replace(self, remarks=self.remarks | {remark})

    def with_context(self, begin: int, end: int, tokens: Tokens) -> Encoded:
        """The same with other tokens between two places where none is learned: at the end of the prompt, or between turns."""
        if np.array_equal(tokens, self.tokens[begin:end]):
            return self
        changed = np.concatenate([self.tokens[:begin], tokens, self.tokens[end:]])
        if end <= self.prompt_length:
            return replace(self, tokens=changed, prompt_length=self.prompt_length + len(tokens) - (end - begin))
        assert self.learned is not None  # others speak between two turns
        before, after = self.learned[: begin - self.prompt_length], self.learned[end - self.prompt_length :]
        return replace(self, tokens=changed, learned=np.concatenate([before, np.zeros(len(tokens), dtype=bool), after]))


def cutting_marks(tokenizer: Any, candidates: Iterable[str], encode: Callable[[str], Cut]) -> tuple[str, ...]:
    """Those of the special tokens `candidates` at whose beginning a text may be cut: its parts have the tokens of the whole.

    encode: what the tokenizer itself makes of a text, and not its description alone.

    A fast tokenizer looks for added tokens from left to right, the longest first, and tokenises what lies between two of them
    alone. So a text may be cut where an added token begins, if it is found wherever it is spelled (no other one begins with it
    or overlaps it), whatever comes before it, and if it takes no white space from there.
    """
    if not tokenizer.is_fast or getattr(tokenizer, "split_special_tokens", False):
        return ()
    added = {token.content: token for token in tokenizer.added_tokens_decoder.values()}
    if any(token.single_word for token in added.values()):
        return ()
    return tuple(mark for mark in candidates if mark in added and _is_found_always(mark, added) and _parts_at(encode, mark))


def _is_found_always(mark: str, added: dict[str, Any]) -> bool:
    token = added[mark]
    if not token.special or token.normalized or token.lstrip or mark[:1].isspace():
        return False
    for other in added:
        if other != mark and other.startswith(mark):
            return False
        rests = (other[place:] for place in range(1, len(other)))
        if any(mark.startswith(rest) or rest.startswith(mark) for rest in rests):
            return False
    return True


def _parts_at(encode: Callable[[str], Cut], mark: str) -> bool:
    """Whether parts that begin with a mark have the tokens of the whole."""
    head, tail = "a b\n", f"{mark} a b\n"
    whole, first, rest = (encode(text).tokens.tolist() for text in (head + tail, head, tail))
    return bool(whole == first + rest)


def middle_lead(encode: Callable[[str], Cut], marks: Iterable[str]) -> str | None:
    """What words are put after so that they are tokenised as in the middle of a text; None if nothing is known.

    One of the special tokens `marks`, or a character that merges with nothing: after a special token some tokenizers put a space
    before a word, as Llama 2's does.
    """
    before, words = "b\n", "a b"
    known = encode(before + words)
    for lead in (*marks, "\x01"):
        cut = encode(lead + words)
        begin = cut.before(len(lead))
        if begin and np.array_equal(cut.tokens[begin:], known.tokens[known.before(len(before)) :]):
            return lead
    return None


def first_stop(tokens: Tokens, ends: Collection[int], begin: int, end: int) -> int | None:
    """How many of the tokens come up to the first one of `ends` between two places, it included; None without one."""
    if not ends:  # as of most tokenizers
        return None
    found = np.flatnonzero(np.isin(tokens[begin:end], list(ends)))
    return begin + int(found[0]) + 1 if len(found) else None


def without_trailing_special(tokens: list[int], is_special: Sequence[int]) -> list[int]:
    """`tokens` without the special tokens that the tokenizer put at the end (it closes a text; here a completion may follow)."""
    end = len(tokens)
    while end > 0 and is_special[end - 1]:
        end -= 1
    return tokens[:end]


def begins_twice(tokens: Tokens, leading: int, bos: int | None) -> int:
    """1 where the text begins with bos already and the tokenizer has put one before it, else 0."""
    if not 0 < leading < len(tokens):
        return 0
    return int(bos is not None and tokens[leading - 1] == bos and tokens[leading] == bos)
