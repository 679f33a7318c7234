"""A tokenizer's settings as text, to identify it, and a fix for its token offsets."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any


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
