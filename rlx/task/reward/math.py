"""Equality of mathematical expressions, by the package math-verify."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.fields import count, one_of
from rlx.task.base import Prompt, Text
from rlx.task.columns import final_answer
from rlx.task.reward.base import Reward
from rlx.task.reward.text import answers_of

_MARKED = re.compile(r"\$[^$]+\$|\\boxed|\\\(|\\\[")
# delimiters around an answer, which are not part of it
_AROUND = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"\$([^$]+)\$",
        r"\\\((.*)\\\)",
        r"\\\[(.*)\\\]",
        r"\\boxed\s*\{(.*)\}",
        r"\\(?:text|textbf|textit|mathrm|mathbf)\s*\{(.*)\}",
        r"\\?[$€£¥]\s*([\d.,]+)",
        r"\(([A-Za-z])\)",
    )
)
_ESCAPED = re.compile(r"\\([%{}])")
_SAID = re.compile(r"\banswer\s*(?:is|:)\s*:?", re.IGNORECASE)  # before an answer in words
# matches the end of an answer whose only expression is a tuple or an interval, but not text with negation or other numbers
_TUPLE = re.compile(r"[^\d()\[\]=?]*\b(?:is|are)\s*:?\s*([(\[][^()\[\]]+,[^()\[\]]+[)\]])\.?")
_NEGATES = re.compile(r"\b(?:not|no|never|nor|neither|none|cannot|wrong|false|incorrect)\b|n't|n’t", re.IGNORECASE)
_SCIENTIFIC = re.compile(r"(?<![\w.\\])(\d+(?:\.\d+)?)[eE]([+-]?\d+)(?!\w)")  # in 2e3 the package would read Euler's number
_BASE = re.compile(r"\d_\{?(\d+)")  # the base in 101_2, which the package reads as 101


@dataclass(frozen=True, kw_only=True)
class MathVerify(Reward):
    """1 if the completion's last expression (LaTeX or plain) equals the answer as mathematics: 1/2, 0.5 and \\frac{1}{2}; else 0.

    A completion also gives 1 if it equals the answer as text, alone, in \\boxed{} or after "answer is": a choice, a tuple, a
    word, an amount; or if it is a sentence that ends with "is" and a tuple or interval as its only expression.
    unparsed: what to do with an answer in which the package finds no expression: "text": compare it only as text; "refuse":
    raise an error. timeout: seconds for one comparison; one that takes longer gives 0.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    timeout: int = count()
    unparsed: str = one_of(("text", "refuse"), default="text")

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._package

    @cached_property
    def _package(self) -> Any:
        try:
            import math_verify
        except ImportError as error:
            raise ConfigError(
                f"the reward math_verify needs the package math-verify: pip install 'rlx[math]' ({error})"
            ) from error
        return math_verify

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        answers = answers_of(prompt, columns, "math_verify")
        final = str(final_answer(completion))
        if {_as_words(text) for text in (completion, final, _SAID.split(final)[-1], _tuple_in(final) or final)} & {
            self._words(answer, prompt) for answer in answers
        }:
            return 1.0
        # the package's timeout is an alarm signal, which only the main thread can set
        limit = self.timeout if threading.current_thread() is threading.main_thread() else None
        said = self._package.parse(_decimals(completion), parsing_timeout=limit)
        bases = _BASE.findall(final)[-1:]
        right = [answer for answer in answers if not bases or _BASE.findall(str(answer))[-1:] in ([], bases)]
        return float(any(self._same(answer, said, limit, prompt) for answer in right))

    def require_answers(self, prompts: Sequence[Prompt]) -> None:
        """Raise DataError for an empty answer, and with unparsed="refuse" for one that the package cannot parse."""
        for prompt in prompts:
            for answer in answers_of(prompt.text, dict(prompt.columns), "math_verify"):
                self._words(answer, prompt.text)
                if self.unparsed == "refuse":
                    self._parsed(answer, None, prompt.text)

    def _words(self, answer: Any, prompt: Text) -> str:
        if not str(answer).strip():
            raise DataError(f"reward math_verify: the answer of the prompt {prompt!r} is empty; give one, or leave the row out")
        return _as_words(str(answer))

    def _parsed(self, answer: Any, limit: int | None, prompt: Text) -> Any:
        text = _decimals(str(answer))
        is_marked = bool(_MARKED.search(text))  # in an unmarked 1+x the package would find the number 1
        right = self._package.parse(text if is_marked else f"${text}$", parsing_timeout=limit)
        if not right and self.unparsed == "refuse":
            raise DataError(
                f"reward math_verify: nothing can be read from the answer {answer!r} of the prompt {prompt!r}; fix it, or "
                "compare such answers as text: task.rewards.math_verify.unparsed=text"
            )
        return right

    def _same(self, answer: Any, said: Any, limit: int | None, prompt: Text) -> bool:
        right = self._parsed(answer, limit, prompt)
        return bool(right) and bool(self._package.verify(right, said, timeout_seconds=limit))


def _decimals(text: str) -> str:
    """The text with numbers in scientific notation, such as 2.5e-3, written as decimals, if they are not too long."""

    def written(number: re.Match[str]) -> str:
        return f"{Decimal(number[0]):f}" if len(number[2]) < 4 else number[0]

    return _SCIENTIFIC.sub(written, text)


def _tuple_in(text: str) -> str:
    """The tuple or interval at the end of a sentence without other numbers; "" if there is none."""
    match = _TUPLE.fullmatch(text.strip())
    return match[1] if match and not _NEGATES.search(text) else ""


def _as_words(text: str) -> str:
    """The text in lower case, without math and currency marks, white space and a final full stop."""
    found = text.strip().rstrip(".").strip()
    for pattern in _AROUND:
        match = pattern.fullmatch(found)
        found = match[1].strip() if match else found
    return "".join(_ESCAPED.sub(r"\1", found).split()).casefold()
