"""Rewards: named and weighted functions of a prompt and a completion, rlx's own and the user's.

A reward gets the prompt in the task's form (text, or messages), the completion as text without special tokens, and the prompt's
columns (such as its answer).
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import DataError, RlxError
from rlx.fields import Ranged, within
from rlx.task.base import Earned, Prompt, Text, finite
from rlx.task.timed import TimedCalls

_AWAITED_SECONDS = 3600.0  # time limit of an async reward


@dataclass(frozen=True, kw_only=True)
class Reward(Ranged, ABC):
    """One named part of a task's reward.

    weight: factor of its value in the sum; with 0 it is only logged.
    """

    bounds: ClassVar[tuple[float, float] | None] = None  # the smallest and the largest value, None if unknown

    weight: float = within()

    @abstractmethod
    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        """The value of one completion, before the weight."""

    def score_all(self, samples: Sequence[tuple[Prompt, str]]) -> list[Any]:
        """The values of many completions; an exception that the reward raised replaces its value."""
        return [self._tried(prompt, completion) for prompt, completion in samples]

    def _tried(self, prompt: Prompt, completion: str) -> Any:
        try:
            return self(prompt.text, completion, **prompt.columns)
        except RlxError:  # a wrong setting or column, which affects every completion
            raise
        except Exception as error:
            return error

    def require_answers(self, prompts: Sequence[Prompt]) -> None:
        """Raise DataError for an answer that no completion can match; called when the prompts have been read."""

    @property
    def largest(self) -> float | None:
        """The largest value that it can add to the sum; None if it has no bounds. With weight 0 it adds nothing."""
        if self.weight == 0:
            return 0.0
        return None if self.bounds is None else max(self.weight * bound for bound in self.bounds)


@dataclass(frozen=True, kw_only=True)
class FunctionReward(Reward):
    """A reward from a user's function: `def reward(prompt, completion, **columns) -> float`.

    It may return several named numbers, {"format": 0.2, "answer": 1.0}: the reward is their sum, and each is logged. It may be
    `async def`: then the calls for all completions of a batch run concurrently.

    function: gets the columns that its parameters name, or all of them if it takes **columns.
    """

    function: Callable[..., float]

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.function, functools.partial):  # a plain partial: Hydra's subclass inspects the function at every call
            plain = functools.partial(self.function.func, *self.function.args, **self.function.keywords)
            object.__setattr__(self, "function", plain)

    @staticmethod
    def of(function: Callable[..., Any]) -> FunctionReward:
        """The reward of a function, with weight 1, or with the keyword `weight` bound to it if the function takes none."""
        bound = dict(function.keywords) if isinstance(function, functools.partial) else {}
        if not isinstance(function, functools.partial) or "weight" not in bound or _names(function.func, "weight"):
            return FunctionReward(weight=1.0, function=function)
        weight = bound.pop("weight")
        return FunctionReward(weight=weight, function=functools.partial(function.func, *function.args, **bound))

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> float:
        return self.function(prompt, completion, **self._taken(columns))

    def score_all(self, samples: Sequence[tuple[Prompt, str]]) -> list[Any]:
        values = super().score_all(samples)
        places = [place for place, value in enumerate(values) if inspect.isawaitable(value)]
        found = self._calls.run([functools.partial(_given, values[place]) for place in places]) if places else []
        for place, value in zip(places, found, strict=True):
            if isinstance(value, RlxError):
                raise value
            values[place] = value
        return values

    @cached_property
    def _calls(self) -> TimedCalls:
        return TimedCalls(_AWAITED_SECONDS)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.function).parameters

    def _taken(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that the function takes. Raises DataError if the prompt lacks one that it needs."""
        bound = self.function.keywords if isinstance(self.function, functools.partial) else {}
        free = {name: value for name, value in columns.items() if name not in bound}
        parameters = list(self._parameters.values())
        named = [item for item in parameters[2:] if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
        for item in named:
            if item.default is item.empty and item.name not in free:
                known = ", ".join(columns) or "none"
                raise DataError(
                    f"{dotted_name(self.function)} needs the column {item.name}, and the task's prompts have {known}; a "
                    "parameter is called as its column, or has a default"
                )
        if any(item.kind is item.VAR_KEYWORD for item in parameters):
            return free
        return {item.name: free[item.name] for item in named if item.name in free}


def _given(value: Any) -> Any:
    return value


def _names(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def dotted_name(function: Callable[..., Any]) -> str:
    """A function's dotted name."""
    plain = function.func if isinstance(function, functools.partial) else function
    return f"{getattr(plain, '__module__', '')}.{getattr(plain, '__qualname__', type(plain).__name__)}".lstrip(".")


# The three forms of a reward: one number, one number per turn of the assistant, or numbers for spans of its text.


REWARD_FORMS = "not a finite number, nor one for each turn (of which there are {turns}), nor spans within a turn"


@dataclass(frozen=True)
class Span:
    """A number for a part of the assistant's text.

    value: the number. begin, end: the part, in characters of a turn's text. turn: the index of the turn from 0; -1 is the last.
    """

    value: float
    begin: int
    end: int
    turn: int = -1


@dataclass(frozen=True)
class Measured:
    """A reward for a completion, with metrics that are logged as reward/NAME_FIGURE and not added to the reward.

    value: in one of the forms of a reward, or an exception instead. Every completion has the same metrics.
    """

    value: Any
    figures: Mapping[str, float]


def earned_of(value: Any, turns: Sequence[str]) -> tuple[Earned, ...] | None:
    """The parts of a value that a reward returned, by location; None if it has none of the three forms.

    turns: the assistant's texts. A sequence (or array, or tensor) must have one number per turn; spans must lie within turns.
    """
    if getattr(value, "ndim", 0) == 1:
        value = value.tolist()
    number = finite(value)
    if number is not None:
        return (Earned(number, len(turns) - 1),)
    if not isinstance(value, (list, tuple)):
        return None
    if value and all(isinstance(item, Span) for item in value):
        pieces = [_of_span(span, turns) for span in value]
    elif len(value) == len(turns):
        numbers = [finite(item) for item in value]
        pieces = [None if item is None else Earned(item, turn) for turn, item in enumerate(numbers)]
    else:
        return None
    kept = tuple(piece for piece in pieces if piece is not None)
    return kept if len(kept) == len(pieces) else None


def _of_span(span: Span, turns: Sequence[str]) -> Earned | None:
    value = finite(span.value)
    if value is None or not -len(turns) <= span.turn < len(turns):
        return None
    turn = span.turn % len(turns)
    return Earned(value, turn, span.end) if 0 <= span.begin < span.end <= len(turns[turn]) else None
