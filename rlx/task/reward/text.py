"""Rewards that compare a completion with the answer, or check its form or length."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.fields import count, within
from rlx.task.base import Text
from rlx.task.reward.base import Reward

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
# A minus after a word, a digit or a bracket subtracts; elsewhere it belongs to the number.
NUMBER = re.compile(rf"(?:(?<![\w).])[-+])?(?:{_DIGITS})(?:[eE][-+]?[0-9]{{1,3}}|/[0-9]+(?![\d.]))?")


@dataclass(frozen=True, kw_only=True)
class ExactMatch(Reward):
    """1 if the completion equals the answer, or one of a list of answers, up to surrounding white space; else 0.

    ignore_case: whether to ignore case.
    pattern: a regular expression; the first group (or all) of its last match in the completion is compared; without a match the
    reward is 0. null: the whole completion is compared.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    ignore_case: bool
    pattern: str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._regex

    @cached_property
    def _regex(self) -> re.Pattern[str] | None:
        return None if self.pattern is None else compiled(self.pattern, "exact_match.pattern")

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        answers = [self._plain(str(answer)) for answer in answers_of(prompt, columns, "exact_match")]
        said = completion if self._regex is None else last_match(self._regex, completion)
        return float(said is not None and self._plain(said) in answers)

    def _plain(self, text: str) -> str:
        return text.strip().casefold() if self.ignore_case else text.strip()


@dataclass(frozen=True, kw_only=True)
class Numeric(Reward):
    """1 if the last number of the completion equals that of the answer, else 0. Reads 1,234.5 and 3/4 and 1e-3.

    tolerance: largest difference, relative to the answer if that is above 1.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    tolerance: float = within(at_least=0)

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        said = last_number(completion)
        return float(any(self._same(said, answer, prompt) for answer in answers_of(prompt, columns, "numeric")))

    def _same(self, said: Fraction | None, answer: Any, prompt: Text) -> bool:
        right = last_number(str(answer))
        if right is None:
            raise DataError(f"reward numeric: the answer {answer!r} of the prompt {prompt!r} holds no number; use exact_match")
        if said is None:
            return False
        return abs(said - right) <= Fraction(self.tolerance) * max(Fraction(1), abs(right))


@dataclass(frozen=True, kw_only=True)
class RegexFormat(Reward):
    """1 if the completion matches a regular expression, else 0; the dot matches line ends too.

    pattern: the expression. whole: it must match the whole completion, without white space around it; false: some part of it.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    pattern: str
    whole: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._regex

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return compiled(self.pattern, "regex_format.pattern")

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        match = self._regex.fullmatch(completion.strip()) if self.whole else self._regex.search(completion)
        return float(match is not None)


@dataclass(frozen=True, kw_only=True)
class LengthPenalty(Reward):
    """Soft overlong punishment, DAPO (arXiv:2503.14476) eq. 13, with lengths in characters, as a reward sees only text.

    0 up to max_characters - cache_characters, -1 above max_characters, linear in between.
    """

    bounds: ClassVar[tuple[float, float] | None] = (-1.0, 0.0)

    max_characters: int = count(at_least=0)
    cache_characters: int = count(at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_characters > self.max_characters:
            raise ConfigError(
                f"length_penalty.cache_characters is {self.cache_characters}; it is at most max_characters={self.max_characters}"
            )

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        over = len(completion) - (self.max_characters - self.cache_characters)
        if over <= 0:
            return 0.0
        return -1.0 if over > self.cache_characters else -over / self.cache_characters


def answers_of(prompt: Text, columns: dict[str, Any], name: str) -> Sequence[Any]:
    """The accepted answers. Raises DataError if the prompt has none."""
    answer = columns.get("answer")
    if answer is None or answer == []:
        raise DataError(f"reward {name} compares with an answer, and the prompt {prompt!r} has none; see task.answer_key")
    return answer if isinstance(answer, (list, tuple)) else [answer]


def last_match(pattern: re.Pattern[str], text: str) -> str | None:
    """The first group of the last match, or all of it if the pattern has no group; None without a match."""
    matches = list(pattern.finditer(text))
    return matches[-1][min(1, pattern.groups)] if matches else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text as an exact fraction; None if there is none, or it is not finite."""
    numbers = NUMBER.findall(text.replace("\N{MINUS SIGN}", "-"))
    if not numbers:
        return None
    over, _, under = numbers[-1].replace(",", "").partition("/")
    try:
        return Fraction(over) / Fraction(under or "1") if math.isfinite(float(over)) else None
    except (ValueError, ZeroDivisionError):
        return None


def compiled(pattern: str, key: str) -> re.Pattern[str]:
    """The compiled regular expression. Raises ConfigError with the key and the reason if it is invalid."""
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"{key}: {pattern!r} is not a regular expression: {error}") from error
