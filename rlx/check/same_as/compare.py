"""Two of a kind held against each other: algorithms, losses or advantages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rlx.algorithm.base import Algorithm
from rlx.check.same_as.advantage import advantages
from rlx.check.same_as.algorithm import algorithms
from rlx.check.same_as.comparison import Comparison, matched
from rlx.check.same_as.loss import losses
from rlx.check.subject import Subject
from rlx.errors import ConfigError
from rlx.loss.advantage.completion import Advantage
from rlx.loss.advantage.token import TokenAdvantage
from rlx.loss.base import Loss


def compare(subject: Subject, mine: Any, other: Any, *, name: str) -> Comparison:
    """Two algorithms, two losses or two advantages. Raises ConfigError where they are not of one kind.

    subject: what `mine` is tried with. name: of the other, as it is printed.
    """
    other, changed = matched(mine, other)
    if isinstance(mine, Algorithm) and isinstance(other, Algorithm):
        found = algorithms(subject, other, name=name)
    elif isinstance(mine, Loss) and isinstance(other, Loss):
        found = losses(mine, other, name=name)
    elif isinstance(mine, (Advantage, TokenAdvantage)) and isinstance(other, (Advantage, TokenAdvantage)):
        found = advantages(mine, other, name=name)
    else:
        raise ConfigError(f"same_as: a {type(mine).__name__} is held against a {type(other).__name__}; name one of its own kind")
    return replace(found, matched=changed)
