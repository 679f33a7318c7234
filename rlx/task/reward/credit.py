"""Where a reward was earned: one number for all, one a turn of the assistant, or numbers for parts of what it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlx.task.base import Earned, finite

REWARD_FORMS = "not a finite number, nor one for each turn (of which there are {turns}), nor spans within a turn"


@dataclass(frozen=True)
class Span:
    """A number for a part of what the assistant wrote.

    value: the number. begin, end: the part, in characters of a turn's text. turn: the number of the turn from 0; -1 is the last.
    """

    value: float
    begin: int
    end: int
    turn: int = -1


@dataclass(frozen=True)
class Measured:
    """What a reward gives for a completion, with figures about it that are logged as reward/NAME_FIGURE and not added to it.

    value: in one of the forms of a reward, or the exception that stands for it. Every completion has the same figures.
    """

    value: Any
    figures: Mapping[str, float]


def earned_of(value: Any, turns: Sequence[str]) -> tuple[Earned, ...] | None:
    """The pieces of a value that a reward returned; None if it is none of the three forms.

    turns: the assistant's texts. A sequence (or array, or tensor) of numbers has one for each; spans lie within their turns.
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
