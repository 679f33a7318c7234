"""A curriculum: which prompts of a task are how difficult, and when more difficult ones are drawn."""

from __future__ import annotations

from dataclasses import dataclass

from rlx.errors import DataError


@dataclass(frozen=True)
class Curriculum:
    """The difficulty of a task's prompts to learn from.

    levels: of each prompt, in their order; every level from the smallest to the largest has prompts. start: the first level.
    raise_at: the success, from 0 to 1, at which the level rises by one, as the mean of `raise_after` steps; after as many
    steps with less it is counted anew. None: it stays.
    """

    levels: tuple[int, ...]
    start: int
    raise_at: float | None
    raise_after: int

    def __post_init__(self) -> None:
        lacking = sorted(set(range(self.start, self.highest + 1)) - set(self.levels))
        if lacking:
            raise DataError(f"the curriculum has no prompts of level {lacking[0]}, and goes from {self.start} to {self.highest}")

    @property
    def highest(self) -> int:
        """The number of the last level."""
        return max(self.levels)
