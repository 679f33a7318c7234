"""Character positions of tokens in a text, and the special tokens at which a text may be split and tokenised in parts."""

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
    """The tokens of a text, with their character positions.

    encoding: a fast tokenizer's encoding of the text; None: positions are found by `slowly`, which tokenises a part of the text.
    leading: the number of tokens that the tokenizer put before the text; removed: how many of them `tokens` leaves out.
    """

    tokens: Tokens
    text: str
    encoding: Any = None
    leading: int = 0
    removed: int = 0
    slowly: Callable[[str], Tokens] | None = None

    def before(self, place: int, *, whole: bool = True) -> int:
        """The number of tokens that end at or before a position; with whole=False, that begin before it."""
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
        """Whether a token spans a position."""
        token = None if self.slowly is not None else self._token_at(place)
        return token is not None and self._begins(token) < place

    def _token_at(self, place: int) -> int | None:
        """The first token of `encoding` that contains the character at a position; None without one."""
        found: int | None = self.encoding.char_to_token(place) if place < len(self.text) else None
        if found is None and 0 < place < len(self.text) and unicodedata.combining(self.text[place]):
            return self._token_at(place - 1)  # an accent that a normalizer has merged into the letter before it
        return found

    def _begins(self, token: int) -> int:
        """Where a token of `encoding` begins in the text; -1 for a token before the text."""
        chars = self.encoding.token_to_chars(token) if token >= self.leading else None
        return -1 if chars is None else int(chars[0])

    @cached_property
    def _places(self) -> np.ndarray:
        """int64 [T, 2], the begin and end of each token in the text."""
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
    """The tokens of a text whose head was tokenised separately; positions in the head are never queried.

    head: the tokens of the head. start: the position where the tail begins. tail: the rest, whose first `skipped` tokens are not
    part of the text.
    """

    head: Tokens
    start: int
    tail: Cut
    skipped: int = 0

    @cached_property
    def tokens(self) -> Tokens:
        """int64 [T], the tokens of the whole text."""
        return np.concatenate([self.head, self.tail.tokens[self.skipped :]])

    def before(self, place: int, *, whole: bool = True) -> int:
        """Like Cut.before, for a position in the whole text."""
        return len(self.head) - self.skipped + self.tail.before(place - self.start, whole=whole)

    def straddles(self, place: int) -> bool:
        """Like Cut.straddles, for a position in the whole text."""
        return self.tail.straddles(place - self.start)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An example as tokens.

    tokens: int64 [T], prompt and completion, which ends where generation ends. prompt_length: number of prompt tokens.
    learned: bool [T - prompt_length], which completion tokens the assistant wrote; None: all. remarks: keys of REMARKS.
    refused: a key of REFUSED and a detail; None for an example that is safe to learn.
    """

    tokens: Tokens
    prompt_length: int
    learned: Learned | None = None
    remarks: frozenset[str] = frozenset()
    refused: tuple[str, str] | None = None

    def with_remark(self, remark: str) -> Encoded:
        """A copy with a further remark."""
        return replace(self, remarks=self.remarks | {remark})

    def with_context(self, begin: int, end: int, tokens: Tokens) -> Encoded:
        """A copy with other tokens between two positions where none is learned: at the end of the prompt, or between turns."""
        if np.array_equal(tokens, self.tokens[begin:end]):
            return self
        changed = np.concatenate([self.tokens[:begin], tokens, self.tokens[end:]])
        if end <= self.prompt_length:
            return replace(self, tokens=changed, prompt_length=self.prompt_length + len(tokens) - (end - begin))
        assert self.learned is not None  # there is context between two turns
        before, after = self.learned[: begin - self.prompt_length], self.learned[end - self.prompt_length :]
        return replace(self, tokens=changed, learned=np.concatenate([before, np.zeros(len(tokens), dtype=bool), after]))


def cutting_marks(tokenizer: Any, candidates: Iterable[str], encode: Callable[[str], Cut]) -> tuple[str, ...]:
    """The special tokens in `candidates` before which a text may be split so that its parts have the tokens of the whole.

    encode: the tokenizer's actual encoding of a text, which is tested in addition to its description.

    A fast tokenizer searches for added tokens from left to right, the longest first, and tokenises the text between two of them
    separately. So a text may be split before an added token that is found wherever it is spelled (no other one begins with it or
    overlaps it), whatever precedes it, and that does not absorb white space before it.
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
    """A prefix after which words are tokenised as in the middle of a text; None if none is known.

    One of the special tokens `marks`, or a character that never merges: some tokenizers, such as Llama 2's, insert a space
    before a word that follows a special token.
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
    """The number of tokens up to and including the first of `ends` between two positions; None without one."""
    if not ends:  # for most tokenizers
        return None
    found = np.flatnonzero(np.isin(tokens[begin:end], list(ends)))
    return begin + int(found[0]) + 1 if len(found) else None


def without_trailing_special(tokens: list[int], is_special: Sequence[int]) -> list[int]:
    """`tokens` without the special tokens that the tokenizer appended to close the text, as a completion may follow."""
    end = len(tokens)
    while end > 0 and is_special[end - 1]:
        end -= 1
    return tokens[:end]


def begins_twice(tokens: Tokens, leading: int, bos: int | None) -> int:
    """1 if the text already begins with bos and the tokenizer has added another, else 0."""
    if not 0 < leading < len(tokens):
        return 0
    return int(bos is not None and tokens[leading - 1] == bos and tokens[leading] == bos)
