"""Tries a task's rewards on a correct, an empty and a wrong answer, for the survey of its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlx.errors import RlxError
from rlx.task.base import Prompt, Task, Text


def shown(text: Text) -> Any:
    """A text, or messages, as JSON."""
    return text if isinstance(text, str) else [dict(message) for message in text]


def tried_rewards(task: Task) -> list[dict[str, Any]]:
    """The rewards of the first prompt's correct answer, of an empty completion, and of another prompt's answer.

    Tries nothing if completions are conversations with an environment.
    """
    if task.interaction is not None:
        return []  # there is no conversation to reward
    prompts = [prompt for prompt in task.prompts() if prompt.columns.get("answer") not in (None, "", [])]
    if not prompts:
        return [_tried(task, task.prompts()[0], "an empty answer", "")] if len(task.prompts()) else []
    prompt, right = prompts[0], _answer(task, prompts[0])
    wrong = next((answer for other in prompts[1:] if (answer := _answer(task, other)) != right), f"{right} or not")
    tries = (("the right answer", right), ("an empty answer", ""), ("a wrong answer", wrong))
    return [_tried(task, prompt, name, completion) for name, completion in tries]


def _answer(task: Task, prompt: Prompt) -> str:
    """A correct completion: the answer, within the tag in which the task looks for it."""
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
    """Problems of the rewards, as text."""
    found = [f"the reward of {one['name']} fails: {one['error']}" for one in tried if "error" in one]
    values = {one["name"]: one["rewards"]["reward"] for one in tried if "rewards" in one}
    right, full = values.get("the right answer"), task.full_reward_value()
    if right is not None and full is not None and right < full:
        found.append(
            f"the right answer itself gets the reward {right:g}, but {full:g} counts as right: the rewards expect another form "
            "of it; see task.rewards"
        )
    others = [
        name for name in ("an empty answer", "a wrong answer") if right is not None and values.get(name, right - 1) >= right
    ]
    return found + [f"{name} gets the reward {values[name]:g}, no less than the right one ({right:g})" for name in others]
