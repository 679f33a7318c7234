"""What rlx adds to a tokenizer: its settings as text, offsets with white space, and an encoding that separates control tokens.

That encoding reads only the template's special tokens as control tokens; those spelled in messages are plain text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer

from rlx.data.sequences import Tokens
from rlx.data.turns import special_pattern


def tokenizer_text(tokenizer: Any) -> str:
    """All settings that affect how a tokenizer splits text, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts = _backend_text(backend.to_str())
    else:
        parts = json.dumps({"vocabulary": tokenizer.get_vocab()}, sort_keys=True, default=str)
    others = [tokenizer.chat_template, tokenizer.special_tokens_map]
    if getattr(tokenizer, "split_special_tokens", False):  # passed to the fast tokenizer at each call
        others.append("split_special_tokens")
    return f"[{', '.join((parts, *(json.dumps(part, sort_keys=True, default=str) for part in others)))}]"


@lru_cache(maxsize=4)
def _backend_text(serialised: str) -> str:
    """A fast tokenizer without padding and truncation, which every call sets and are not part of its identity."""
    parts = {name: value for name, value in json.loads(serialised).items() if name not in ("padding", "truncation")}
    return json.dumps(parts, sort_keys=True, default=str)


def untrim_offsets(tokenizer: Any) -> None:
    """Make a fast tokenizer's offsets include the white space with which a token begins. Its tokens stay the same.

    If offsets leave it out (as GPT-NeoX's do), a prompt that ends with that space would seem to end where a token begins.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    made = backend.post_processor
    if made is None or b'"trim_offsets":true' not in made.__getstate__():
        return
    made.__setstate__(made.__getstate__().replace(b'"trim_offsets":true', b'"trim_offsets":false'))
    backend.post_processor = made


Piece = tuple[str, bool]  # a text, and whether special tokens spelled in it are control tokens


class ControlTokens:
    """Encodes texts in which some spelled special tokens are not meant as control tokens.

    A copy of the tokenizer knows each special token by a second name that occurs in no text. Real control tokens are written with
    that name, and the copy reads every other spelling as plain text. So each word gets the tokens that it has between control
    tokens, whatever the tokenizer normalises, prefixes or merges.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @cached_property
    def _special(self) -> dict[str, tuple[int, AddedToken]]:
        """The text of a special token -> its id and its properties."""
        added = getattr(self._tokenizer, "added_tokens_decoder", {})
        return {token.content: (number, token) for number, token in added.items() if token.special}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """A pattern that finds the texts of special tokens."""
        return special_pattern(self._special)

    @cached_property
    def _second_names(self) -> dict[str, str]:
        return {text: f"\ue000{place}\ue001" for place, text in enumerate(self._special)}

    @cached_property
    def _copy(self) -> tuple[Tokenizer, dict[int, int]]:
        """The copy, and the id of each second name -> the id of the special token."""
        copy = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
        copy.no_padding()
        copy.no_truncation()
        numbers: dict[int, int] = {}
        for text, (number, token) in self._special.items():
            name = self._second_names[text]
            own = {key: getattr(token, key) for key in ("single_word", "lstrip", "rstrip")}
            copy.add_tokens([AddedToken(name, normalized=False, special=False, **own)])
            second = copy.token_to_id(name)
            assert second is not None  # just added
            numbers[second] = number
        copy.encode_special_tokens = True
        return copy, numbers

    def encode(self, pieces: Sequence[Piece], *, after: int = 0) -> Tokens | None:
        """int64 [T], the tokens of the joined pieces, from piece `after` on, without tokens that the tokenizer adds.

        None if this tokenizer cannot distinguish the two readings: it is not a fast tokenizer, or its vocabulary also has the
        spelling of a special token as an ordinary token.
        """
        if not self._tokenizer.is_fast or any("\ue000" in text for text, _ in pieces):
            return None
        copy, numbers = self._copy
        written = [
            self.pattern.sub(lambda found: self._second_names[found[0]], text) if is_control else text
            for text, is_control in pieces
        ]
        encoding = copy.encode("".join(written), add_special_tokens=False)
        begin = len("".join(written[:after]))
        controls = sum(len(self.pattern.findall(text)) for text, is_control in pieces if is_control)
        known = {number for number, _ in self._special.values()}
        if sum(number in numbers for number in encoding.ids) != controls or known.intersection(encoding.ids):
            return None
        kept = [number for number, (start, _) in zip(encoding.ids, encoding.offsets, strict=True) if start >= begin]
        return np.array([numbers.get(number, number) for number in kept], dtype=np.int64)
