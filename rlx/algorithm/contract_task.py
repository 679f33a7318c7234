"""A task cut short, with rewards that need no answers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from rlx.seeding import Stream
from rlx.task.base import Prompt, Task


def shortened(task: Task, *, rows: int) -> Task:
    """The task with its first `rows` pairs and prompts alone."""
    twin = copy.copy(task)
    for name in ("pairs", "prompts", "held_out_pairs", "held_out_prompts"):
        if ("pairs" if "pairs" in name else "rewards") in task.offers:
            few = tuple(getattr(task, name)()[:rows])
            object.__setattr__(twin, name, lambda few=few: few)
    return twin


def stand_in_task(task: Task, *, equal_rewards: bool = False, bonus: float = 0.0) -> Task:
    """The task with rewards that the text alone decides: 0, 0.5 or 1, or all equal, plus `bonus`. It keeps the parts' names."""
    twin = copy.copy(task)
    names: list[str] = []

    def reward(prompt: Prompt, completion: str) -> dict[str, float]:
        if not names:
            names.extend(task.reward_all([prompt], [completion])[0])
        value = bonus + (0.5 if equal_rewards else reward_of(completion))
        return {**dict.fromkeys(names, value), "reward": value}

    def reward_all(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, float]]:
        return [reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    object.__setattr__(twin, "reward", reward)
    object.__setattr__(twin, "reward_all", reward_all)
    return twin


def reward_of(text: str) -> float:
    """0, 0.5 or 1."""
    return Stream(0, ("reward", text)).key % 3 / 2
