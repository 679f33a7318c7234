"""Rewards and a task of rewards, small."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlx.task.base import Prompt
from rlx.task.reward.base import Reward
from rlx.task.rewarded import RewardedTask


@dataclass(frozen=True, kw_only=True)
class Count(Reward):
    """How often a letter is in the completion."""

    letter: str

    def __call__(self, prompt: Any, completion: str, **columns: Any) -> float:
        return float(completion.count(self.letter))


@dataclass(frozen=True, kw_only=True)
class Told(Reward):
    """Gives what it is told to, or raises it."""

    outcome: Any

    def __call__(self, prompt: Any, completion: str, **columns: Any) -> float:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Letters(RewardedTask):
    """One prompt to learn from, one held out."""

    def prompts(self) -> Sequence[Prompt]:
        return (Prompt("a", {"answer": "a"}),)

    def held_out_prompts(self) -> Sequence[Prompt]:
        return (Prompt("b", {"answer": "b"}),)


def letters(rewards: dict[str, Any], **changes: Any) -> Letters:
    settings = {"on_reward_error": "stop", "failed_reward": 0.0, "full_reward": "auto", **changes}
    return Letters(name="letters", max_new_tokens=4, rewards=rewards, **settings)
