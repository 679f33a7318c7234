"""Tokenised texts that outlive a run, so that the jobs of a sweep tokenise their data once.

The name of a file is a hash of the texts and of what cuts them: the tokenizer, its chat template, the versions of the libraries
and the source of rlx.data.tokens. Limits of length are not in it: they are applied to what is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tokenizers
import torch
import transformers
from torch import Tensor

from rlx.data import tokens as tokens_module
from rlx.data.sequences import Tokens
from rlx.data.tensor_store import TensorStore
from rlx.data.tokens import TextEncoder

if TYPE_CHECKING:
    from rlx.task.base import Text

_LOOKED_AT = 8  # examples that are tokenised again when a file is read, to see if it is right

_log = logging.getLogger("rlx")


class TokenStore:
    """A folder of tokenised texts. None keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._files = TensorStore(folder, "tokens")

    def encode_completions(self, text: TextEncoder, examples: Sequence[tuple[Text, Text]]) -> list[tuple[Tokens, int]]:
        """As text.encode_completions(examples), computed by one process and read by all later ones."""
        if self._files.folder is None or not examples:
            return text.encode_completions(examples)
        name = _name(text, examples)
        with self._files.claim(name, wait=True):
            encoded = self._read(name, text, examples)
            if encoded is None:
                encoded = text.encode_completions(examples)
                self._files.write(name, _packed(encoded))
        return encoded

    def _read(self, name: str, text: TextEncoder, examples: Sequence[tuple[Text, Text]]) -> list[tuple[Tokens, int]] | None:
        """What is kept under `name`, if a sample of it is what the tokenizer gives."""
        kept = self._files.read(name)
        if kept is None:
            return None
        if not {"tokens", "lengths", "prompt_lengths"} <= kept.keys() or len(kept["lengths"]) != len(examples):
            _log.warning("cached tokens in %s are of other texts; they are computed again", self._files.path(name))
            return None
        encoded = _unpacked(kept)
        rows = np.unique(np.linspace(0, len(examples) - 1, _LOOKED_AT).astype(int)).tolist()
        again = text.encode_completions([examples[row] for row in rows])
        for row, (tokens, num_prompt) in zip(rows, again, strict=True):
            if num_prompt != encoded[row][1] or not np.array_equal(tokens, encoded[row][0]):
                _log.warning("cached tokens in %s are not this tokenizer's; they are computed again", self._files.path(name))
                return None
        return encoded


def _name(text: TextEncoder, examples: Sequence[tuple[Text, Text]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (
        transformers.__version__,
        tokenizers.__version__,
        _source(),
        text.identity(),
        json.dumps(examples, default=repr),
    ):
        digest.update(hashlib.blake2b(part.encode()).digest())
    return digest.hexdigest()


@cache
def _source() -> str:
    return Path(tokens_module.__file__).read_text()


def _packed(encoded: Sequence[tuple[Tokens, int]]) -> dict[str, Tensor]:
    return {
        "tokens": torch.from_numpy(np.concatenate([tokens for tokens, _ in encoded]).astype(np.int32)),
        "lengths": torch.tensor([len(tokens) for tokens, _ in encoded], dtype=torch.int64),
        "prompt_lengths": torch.tensor([num_prompt for _, num_prompt in encoded], dtype=torch.int64),
    }


def _unpacked(kept: dict[str, Tensor]) -> list[tuple[Tokens, int]]:
    ends = kept["lengths"].cumsum(0).tolist()
    tokens = kept["tokens"].numpy().astype(np.int64)
    starts = [0, *ends[:-1]]
    return [(tokens[start:end], num) for start, end, num in zip(starts, ends, kept["prompt_lengths"].tolist(), strict=True)]
