"""Higher or lower: a game of several turns, small enough for the embedded policy."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rlx.errors import ConfigError
from rlx.fields import check_hyperparameters, count, within
from rlx.task.base import Prompt
from rlx.task.environment import Environment, Turn


@dataclass(frozen=True, kw_only=True)
class Guess(Environment):
    """Guess a number from lowest to highest; after a wrong guess the game says `>` if the number is higher, `<` if it is lower.

    A correct guess has reward 1 and ends the game; max_guesses wrong ones end it without a reward. A turn that is not such a
    number is a wrong guess, answered with `?`. The prompts do not reveal the numbers, each of which occurs equally often, so the
    held-out prompts use the same numbers.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    lowest: int = within(whole=True)
    highest: int = within(whole=True)
    max_guesses: int = count()

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if self.highest <= self.lowest:
            raise ConfigError(
                f"task.environment has lowest={self.lowest} and highest={self.highest}; the game needs two numbers at least"
            )

    def prompts(self, count: int, rng: random.Random) -> Sequence[Prompt]:
        numbers = range(self.lowest, self.highest + 1)
        made = [numbers[place % len(numbers)] for place in range(count)]
        rng.shuffle(made)
        return [Prompt(f"{self.lowest}-{self.highest}=", {"secret": secret}) for secret in made]

    def start(self, prompt: Any, **columns: Any) -> Any:
        self.state.update(secret=columns["secret"], guesses=0)
        return prompt

    def step(self, completion: str) -> Turn:
        secret = self.state["secret"]
        self.state["guesses"] += 1
        said = completion.strip()
        guess = int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None
        if guess == secret:
            return Turn("right", reward=1.0, done=True)
        if self.state["guesses"] >= self.max_guesses:
            return Turn(f"it was {secret}", done=True)
        if guess is None or not self.lowest <= guess <= self.highest:
            return Turn("?=")
        return Turn(">=" if secret > guess else "<=")
