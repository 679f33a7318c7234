"""Curricula: from which prompts a step draws, where their difficulty rises with success.

The level is kept in the state of the run, which its checkpoints contain, so a resumed run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlx.task.curriculum import Curriculum

if TYPE_CHECKING:
    from torch import Tensor

    from rlx.rollout.rollouts import RolloutBatch

_LEVEL, _COUNT, _SUM = "curriculum/level", "curriculum/steps", "curriculum/success"


def level_of(curriculum: Curriculum, state: Mapping[str, Tensor]) -> int:
    """The level of this step."""
    return int(state[_LEVEL]) if _LEVEL in state else curriculum.start


def rows_at(curriculum: Curriculum, level: int) -> np.ndarray:
    """int64 [N], the rows of the task's prompts of a level."""
    return np.flatnonzero(np.array(curriculum.levels) == level)


def learn_level(curriculum: Curriculum, state: dict[str, Tensor], batch: RolloutBatch, full: float | None) -> dict[str, float]:
    """Count the success of a batch and raise the level for the next step if it suffices. Returns what is logged.

    full: the reward from which on a completion is right; None: its reward is its success.
    """
    level = level_of(curriculum, state)
    rewards = batch.rewards.double()
    success = float((rewards if full is None else (rewards >= full).double()).mean())
    steps = int(state[_COUNT]) + 1 if _COUNT in state else 1
    total = (float(state[_SUM]) if _SUM in state else 0.0) + success
    figures = {"difficulty": float(level), "difficulty_success": total / steps}
    if steps >= curriculum.raise_after:
        if curriculum.raise_at is not None and total / steps >= curriculum.raise_at and level < curriculum.highest:
            level += 1
        steps, total = 0, 0.0
    state.update({
        _LEVEL: torch.tensor(level), _COUNT: torch.tensor(steps), _SUM: torch.tensor(total, dtype=torch.float64)
    })  # fmt: skip
    return figures
