"""Text to tokens: prompt and completion are tokenised once, as one text, and cut where the prompt ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.data.sequences import Tokens
from rlx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rlx.task.base import Message, Text

CHAT_TEMPLATES = ("auto", "always", "never")
# For conversations under a tokenizer without a chat template of its own, such as a base model's.
PLAIN_CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@dataclass(frozen=True)
class TextEncoder:
    """How text becomes tokens.

    tokenizer: a transformers tokenizer.
    chat_template: auto = applied to chat messages; always = a plain prompt too becomes one user message; never = chat messages
    are refused.
    max_length: the most tokens of prompt and completion together; longer pairs are dropped. None = the model's positions.
    max_prompt_length: a longer prompt loses its beginning. None = whole prompts.
    """

    tokenizer: Any
    chat_template: str = "auto"
    max_length: int | None = None
    max_prompt_length: int | None = None

    def __post_init__(self) -> None:
        if self.chat_template not in CHAT_TEMPLATES:
            raise ConfigError(f"policy.chat_template={self.chat_template} is none of {', '.join(CHAT_TEMPLATES)}")
        for name, least in (("max_length", 2), ("max_prompt_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"policy.{name}={value} leaves no room; use at least {least}, or null for no limit")

    @property
    def applies_plain_chat(self) -> bool:
        """Would chat messages be written in rlx's own plain form?"""
        return self.tokenizer.chat_template is None

    @cached_property
    def longest_token(self) -> int:
        """Characters of the vocabulary's longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def identity(self) -> str:
        """What decides the tokens of a text, as text. The limits of length are not in it: they choose among finished examples."""
        return json.dumps([self.chat_template, type(self.tokenizer).__name__, tokenizer_text(self.tokenizer)])

    def eos_token_ids(self, model: Any) -> tuple[int, ...]:
        """The tokens that end a completion: the tokenizer's own first, then those of the model's generation settings."""
        generation = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        others = generation if isinstance(generation, list) else [generation]
        return tuple(dict.fromkeys(int(token) for token in [self.tokenizer.eos_token_id, *others] if token is not None))

    def encode_prompt(self, prompt: Text) -> Tokens:
        """int64 [T], at least one token; the end of the prompt if it is longer than `max_prompt_length`."""
        messages = self._messages(prompt)
        if messages is None:
            encoded = self.tokenizer(prompt, return_special_tokens_mask=True)
            tokens = _without_trailing_special(encoded["input_ids"], encoded["special_tokens_mask"])
        else:
            tokens = self.tokenizer(self._render(messages, opens_answer=True), add_special_tokens=False)["input_ids"]
        return self._prompt(np.asarray(tokens, dtype=np.int64))

    def encode_completions(self, examples: Sequence[tuple[Text, Text]]) -> list[tuple[Tokens, int]]:
        """For each (prompt, completion): its tokens int64 [T] up to end-of-sequence, and how many lie in the prompt."""
        texts = [self._text(prompt, completion) for prompt, completion in examples]
        encoded: list[tuple[Tokens, int]] = [(np.zeros(0, dtype=np.int64), 0)] * len(texts)
        for is_chat in (False, True):
            rows = [row for row, text in enumerate(texts) if text[2] == is_chat]
            if rows:
                cut = self._encode_texts([texts[row][0] for row in rows], [texts[row][1] for row in rows], special=not is_chat)
                for row, (tokens, num_prompt) in zip(rows, cut, strict=True):
                    encoded[row] = (self._ended(tokens, num_prompt), num_prompt)
        return encoded

    def begin(self) -> Tokens:
        """int64 [1], what predicts the first token when there is no prompt: bos, or eos where there is no bos."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return np.array([token], dtype=np.int64)
        raise DataError(
            "an empty prompt needs a bos or eos token to begin with, and this tokenizer has neither; give the prompt a text"
        )

    def _prompt(self, tokens: Tokens) -> Tokens:
        """`tokens`, begun if empty, cut at its beginning if too long."""
        if len(tokens) == 0:
            return self.begin()
        return tokens if self.max_prompt_length is None else tokens[-self.max_prompt_length :]

    def _messages(self, prompt: Text) -> tuple[Message, ...] | None:
        """The prompt as chat messages; None if it stays plain text."""
        if isinstance(prompt, str):
            return ({"role": "user", "content": prompt},) if self.chat_template == "always" else None
        if self.chat_template == "never":
            raise DataError("the prompt is a list of chat messages, but policy.chat_template=never; set it to auto")
        return tuple(prompt)

    def _text(self, prompt: Text, completion: Text) -> tuple[str, int, bool]:
        """The whole text, the length of the prompt's part of it in characters, and whether a chat template made it."""
        messages = self._messages(prompt)
        if messages is None:
            if not isinstance(completion, str):
                raise DataError(
                    "a prompt of plain text needs completions of plain text, not chat messages; give both in one form"
                )
            return f"{prompt}{completion}", len(prompt), False
        answer = ({"role": "assistant", "content": completion},) if isinstance(completion, str) else tuple(completion)
        opening = self._render(messages, opens_answer=True)
        whole = self._render((*messages, *answer), opens_answer=False)
        return whole, _agreement(opening, whole), True

    def _render(self, messages: tuple[Message, ...], *, opens_answer: bool) -> str:
        """The messages as the chat template writes them."""
        template = PLAIN_CHAT if self.applies_plain_chat else None
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), chat_template=template, tokenize=False, add_generation_prompt=opens_answer
                )
            )
        except Exception as error:  # templates raise what they like: a role they do not know, a system message they refuse
            roles = [message.get("role") for message in messages]
            mend = "leave such messages out, or give the tokenizer another template"
            raise DataError(f"the chat template refuses messages with the roles {roles}: {error}; {mend}") from error

    def _encode_texts(self, texts: list[str], boundaries: list[int], *, special: bool) -> list[tuple[Tokens, int]]:
        """Tokens of each text and how many of them end at or before its boundary."""
        if not self.tokenizer.is_fast:
            return [
                self._encode_slowly(text, boundary, special=special) for text, boundary in zip(texts, boundaries, strict=True)
            ]
        encoded = self.tokenizer(
            texts,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_attention_mask=False,
        )
        rows = []
        for row, boundary in enumerate(boundaries):
            is_special = encoded["special_tokens_mask"][row]
            tokens = _without_trailing_special(encoded["input_ids"][row], is_special)
            ends = (end for (_, end), added in zip(encoded["offset_mapping"][row], is_special, strict=True) if not added)
            leading = next((i for i, added in enumerate(is_special) if not added), len(tokens))
            inside = next((i for i, end in enumerate(ends) if end > boundary), len(tokens) - leading)
            rows.append((np.asarray(tokens, dtype=np.int64), leading + inside))
        return rows

    def _encode_slowly(self, text: str, boundary: int, *, special: bool) -> tuple[Tokens, int]:
        """The same for a tokenizer without offsets: the prompt is what the whole shares with the prompt tokenised alone."""
        whole, prompt = (
            _without_trailing_special(
                tokens := self.tokenizer(part, add_special_tokens=special)["input_ids"],
                self.tokenizer.get_special_tokens_mask(tokens, already_has_special_tokens=True) if special else [0] * len(tokens),
            )
            for part in (text, text[:boundary])
        )
        return np.asarray(whole, dtype=np.int64), _agreement(prompt, whole)

    def _ended(self, tokens: Tokens, num_prompt: int) -> Tokens:
        """`tokens` up to the completion's last end-of-sequence token if only white space follows it; else with one appended."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            return tokens
        ends = np.flatnonzero(tokens[num_prompt:] == eos)
        if len(ends):
            after = num_prompt + int(ends[-1]) + 1
            if after == len(tokens) or not str(self.tokenizer.decode(tokens[after:].tolist())).strip():
                return tokens[:after]
        return np.append(tokens, eos)


def _without_trailing_special(tokens: list[int], is_special: list[int]) -> list[int]:
    """`tokens` without the special tokens that the tokenizer put at the end (it closes a text; here a completion may follow)."""
    end = len(tokens)
    while end > 0 and is_special[end - 1]:
        end -= 1
    return tokens[:end]


def _agreement(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many leading elements agree."""
    return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))


def tokenizer_text(tokenizer: Any) -> str:
    """All that decides how a tokenizer cuts text, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Padding and truncation are set and unset by every call of a fast tokenizer; they are no part of it.
        parts = {name: value for name, value in json.loads(backend.to_str()).items() if name not in ("padding", "truncation")}
    else:
        parts = {"vocabulary": tokenizer.get_vocab()}
    return json.dumps([parts, tokenizer.chat_template, tokenizer.special_tokens_map], sort_keys=True, default=str)
