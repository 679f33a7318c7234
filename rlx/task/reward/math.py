"""Equality of mathematical expressions, by the package math-verify."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import ConfigError
from rlx.task.base import Text
from rlx.task.reward.base import Reward
from rlx.task.reward.text import answers_of


@dataclass(frozen=True, kw_only=True)
class MathVerify(Reward):
    """1 if the completion's last expression (LaTeX or plain) equals the answer as mathematics: 1/2, 0.5 and \\frac{1}{2}; else 0.

    timeout: seconds for one comparison, which can take long; what takes longer is 0.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    timeout: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timeout < 1:
            raise ConfigError(f"math_verify.timeout is {self.timeout}; it must be at least 1 second")
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
        # its time-out is an alarm signal, which only the main thread can set
        limit = self.timeout if threading.current_thread() is threading.main_thread() else None
        said = self._package.parse(completion, parsing_timeout=limit)
        return float(any(self._same(answer, said, limit) for answer in answers_of(prompt, columns, "math_verify")))

    def _same(self, answer: Any, said: Any, limit: int | None) -> bool:
        text = str(answer)
        is_marked = any(mark in text for mark in ("$", "\\boxed", "\\(", "\\["))  # in a bare 1+x it would see the number 1
        right = self._package.parse(text if is_marked else f"${text}$", parsing_timeout=limit)
        return bool(self._package.verify(right, said, timeout_seconds=limit))
