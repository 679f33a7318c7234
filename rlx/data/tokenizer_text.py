"""A tokenizer as text, to tell tokenizers apart; and where its tokens begin."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any


def tokenizer_text(tokenizer: Any) -> str:
    """All that decides how a tokenizer cuts text, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts = _backend_text(backend.to_str())
    else:
        parts = json.dumps({"vocabulary": tokenizer.get_vocab()}, sort_keys=True, default=str)
    others = [tokenizer.chat_template, tokenizer.special_tokens_map]
    if getattr(tokenizer, "split_special_tokens", False):  # the fast tokenizer hears of it at each call
        others.append("split_special_tokens")
    return f"[{', '.join((parts, *(json.dumps(part, sort_keys=True, default=str) for part in others)))}]"


@lru_cache(maxsize=4)
def _backend_text(serialised: str) -> str:
    """A fast tokenizer without its padding and truncation: every call sets and unsets them, they are not part of it."""
    parts = {name: value for name, value in json.loads(serialised).items() if name not in ("padding", "truncation")}
    return json.dumps(parts, sort_keys=True, default=str)


def untrim_offsets(tokenizer: Any) -> None:
    """Let a fast tokenizer's offsets hold the white space that a token begins with, as its text does. Its tokens stay the same.

    With offsets that leave it out (those of GPT-NeoX), a prompt that ends with that space would seem to end where a token begins.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    made = backend.post_processor
    if made is None or b'"trim_offsets":true' not in made.__getstate__():
        return
    made.__setstate__(made.__getstate__().replace(b'"trim_offsets":true', b'"trim_offsets":false'))
    backend.post_processor = made
