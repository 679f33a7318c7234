"""Tries a task's rewards on the right answer, on nothing and on a wrong answer, as the survey of its data does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlx.errors import RlxError
from rlx.task.base import Prompt, Task, Text


def shown(text: Text) -> Any:
    """A text, or messages, as JSON."""
    return text if isinstance(text, str) else [dict(message) for message in text]


def tried_rewards(task: Task) -> list[dict[str, Any]]:
    """What the rewards make of the right answer of the first prompt that has one, of nothing, and of another prompt's answer.

    Nothing is tried where a completion is a conversation with an environment.
    """
    if task.interaction is not None:
        return []  # rewards of a conversation that nobody has played
    prompts = [prompt for prompt in task.prompts() if prompt.columns.get("answer") not in (None, "", [])]
    if not prompts:
        return [_tried(task, task.prompts()[0], "an empty answer", "")] if len(task.prompts()) else []
    prompt, right = prompts[0], _answer(task, prompts[0])
    wrong = next((answer for other in prompts[1:] if (answer := _answer(task, other)) != right), f"{right} or not")
    tries = (("the right answer", right), ("an empty answer", ""), ("a wrong answer", wrong))
    return [_tried(task, prompt, name, completion) for name, completion in tries]


def _answer(task: Task, prompt: Prompt) -> str:
    """A right completion: the answer, within the tag that the task looks for it in."""
    answer = prompt.columns["answer"]
    plain = str(answer[0] if isinstance(answer, (list, tuple)) else answer)
    tag = getattr(task, "answer_tag", None)
    return plain if tag is None else f"<{tag}>{plain}</{tag}>"


def _tried(task: Task, prompt: Prompt, name: str, completion: str) -> dict[str, Any]:
    tried: dict[str, Any] = {"name": name, "prompt": shown(prompt.text), "completion": completion}
    try:
        return {**tried, "rewards": dict(task.reward_all([prompt], [completion])[0])}
    except RlxError as error:
        return {**tried, "error": str(error)}


def doubts_of_rewards(task: Task, tried: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the rewards."""
    found = [f"the reward of {one['name']} fails: {one['error']}" for one in tried if "error" in one]
    values = {one["name"]: one["rewards"]["reward"] for one in tried if "rewards" in one}
    right, full = values.get("the right answer"), task.full_reward_value()
    if right is not None and full is not None and right < full:
        found.append(
            f"the right answer itself has the reward {right:g}, and {full:g} counts as right: the rewards look for another form "
            "of it; see task.rewards"
        )
    others = [
        name for name in ("an empty answer", "a wrong answer") if right is not None and values.get(name, right - 1) >= right
    ]
    return found + [f"{name} has the reward {values[name]:g}, no less than the right one ({right:g})" for name in others]
