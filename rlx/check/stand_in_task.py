"""Stand-ins for a task: fewer of its rows, and rewards that depend only on the text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from rlx.seeding import Stream
from rlx.task.base import Pair, Prompt, Task, Text


def shortened(task: Task, *, rows: int, held_out: int | None = None) -> Task:
    """Return the task with only its first `rows` pairs and prompts, and the first `held_out` (None: `rows`) held-out ones."""
    twin = copy.copy(task)
    held_out = rows if held_out is None else held_out
    for name in ("pairs", "prompts", "held_out_pairs", "held_out_prompts"):
        if task.has_pairs if "pairs" in name else "rewards" in task.offers:
            few = tuple(getattr(task, name)()[: held_out if "held_out" in name else rows])
            object.__setattr__(twin, name, lambda few=few: few)
    return twin


def stand_in_task(
    task: Task,
    *,
    equal_rewards: bool = False,
    bonus: float = 0.0,
    read: int | None = None,
    rewarded: str | None = None,
    favoured: Text | None = None,
    fine: float = 0.0,
) -> Task:
    """Return the task with rewards that depend only on the text: 0, 0.5 or 1, or all equal, plus `bonus`.

    The parts of a reward keep their names. read: how many characters of a text count, None: all. rewarded: a text whose reward is
    higher by 1. favoured: the text of a prompt; the rewards of its completions are higher by 1. fine: if it is not 0, a reward is
    `fine` times a number between 0 and 1 that differs from text to text.
    """
    twin = copy.copy(task)
    names: list[str] = []

    def reward(prompt: Prompt, completion: str) -> dict[str, float]:
        if not names:
            names.extend(task.reward_all([prompt], [completion])[0])
        text = prompt.columns.get("conversation", completion)
        value = fine * Stream(0, ("fine", text)).key / 2**64 if fine else 0.5 if equal_rewards else reward_of(text[:read])
        value += bonus + (text == rewarded) + (prompt.text == favoured)
        return {**dict.fromkeys(names, value), "reward": value}

    def reward_all(prompts: Sequence[Prompt], completions: Sequence[str]) -> list[dict[str, float]]:
        return [reward(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]

    object.__setattr__(twin, "reward", reward)
    object.__setattr__(twin, "reward_all", reward_all)
    return twin


@lru_cache(maxsize=1 << 14)
def reward_of(text: str) -> float:
    """Return 0, 0.5 or 1, determined by the text alone."""
    return Stream(0, ("reward", text)).key % 3 / 2


def has_scores(task: Task) -> bool:
    """Whether every pair of the task has scores of its completions."""
    return all(pair.scores is not None for pair in task.pairs())


def with_scores(task: Task) -> Task:
    """Return the task with synthetic scores, which the text determines, for pairs without any; the chosen side scores higher."""
    twin = copy.copy(task)
    for name in ("pairs", "held_out_pairs"):
        pairs = tuple(replace(pair, scores=pair.scores or _scores(pair)) for pair in getattr(task, name)())
        object.__setattr__(twin, name, lambda pairs=pairs: pairs)
    return twin


def _scores(pair: Pair) -> tuple[float, float]:
    chosen, rejected = Stream(0, ("scores", repr((pair.prompt, pair.chosen, pair.rejected)))).numpy().random(2).tolist()
    return 0.5 + chosen / 2, rejected / 2
