"""The task of conversations with an environment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.fields import count, one_of, within
from rlx.task.base import Prompt, Text
from rlx.task.environment import Environment, Interaction
from rlx.task.prompt_file import PromptFile
from rlx.task.reward.base import Reward
from rlx.task.table import find_files
from rlx.task.timed import TimedCalls

CREDITS = ("episode", "turn")
ENVIRONMENT = "environment"
_OF_CONVERSATION = ("turns", "turn_rewards", "messages", "conversation")


@dataclass(frozen=True, kw_only=True)
class EnvironmentReward(Reward):
    """The rewards that the environment gave, one per turn."""

    environment: Environment

    @property
    def bounds(self) -> tuple[float, float] | None:  # type: ignore[override]
        """The environment's bounds."""
        return self.environment.bounds

    def __call__(self, prompt: Text, completion: str, **columns: Any) -> Any:
        return columns["turn_rewards"]


@dataclass(frozen=True, kw_only=True)
class EnvironmentTask(PromptFile):
    """Conversations with an environment: the assistant speaks in turns, and the environment answers each.

    environment: task.environment=my_lab.Guess, your class that extends rlx.task.environment.Environment.
    path: a file of prompts, one per row, as in task=prompt_file; null: the environment's own prompts, `num_prompts` for training
    and `num_held_out` for the score, drawn from data_seed.
    environment_weight: weight of the environment's rewards in the sum of rewards. Further rewards (task/reward) judge the whole
    conversation: they get the assistant's last turn as the completion, the columns turns, turn_rewards, messages and
    conversation (its text after the opening), and the opening as the prompt if a row has no prompt.
    max_new_tokens: longest turn of the assistant. A turn that is cut off there is judged and is the last one.
    max_turns, max_tokens: a conversation ends, truncated, after this many turns of the assistant, or this many tokens after its
    opening, including the environment's; max_tokens null: the policy's positions.
    step_seconds: time limit for a call of start or step.
    on_environment_error: what to do if the environment raises, exceeds its time or breaks its contract. fail: the conversation
    gets failed_reward and is not learned from; train/environment_failed counts such conversations. stop: the run ends. The run
    also ends if all conversations of a draw with 8 or more prompts fail.
    credit: episode: all tokens of a conversation get its total reward. turn: a turn gets the rewards of this and later turns, not
    of earlier ones.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"rewards"})

    environment: Environment
    path: str | None  # type: ignore[assignment]
    num_prompts: int = count()
    num_held_out: int = count()
    data_seed: int = count(at_least=0)
    environment_weight: float = within()
    max_turns: int = count()
    max_tokens: int | None = count(optional=True)
    step_seconds: float = within(above=0)
    on_environment_error: str = one_of(("fail", "stop"))
    credit: str = one_of(CREDITS)

    def __post_init__(self) -> None:
        if not isinstance(self.environment, Environment):
            raise ConfigError(f"task.environment is {self.environment!r:.80}, not an environment; see rlx guide environment")
        super().__post_init__()
        lacking = [name for name in ("start", "step") if getattr(type(self.environment), name) is getattr(Environment, name)]
        if lacking:
            raise ConfigError(
                f"task.environment: {type(self.environment).__name__} defines no {lacking[0]}; see rlx guide environment"
            )

    def all_rewards(self) -> Mapping[str, Reward | Callable[..., Any]]:  # type: ignore[override]
        if self.environment.bounds == (0.0, 0.0):
            return super().all_rewards()
        own = EnvironmentReward(weight=self.environment_weight, environment=self.environment)
        return {ENVIRONMENT: own, **super().all_rewards()}

    @cached_property
    def interaction(self) -> Interaction:
        """The settings with which its conversations are played."""
        return Interaction(
            environment=self.environment,
            max_turns=self.max_turns,
            max_tokens=self.max_tokens,
            stops_on_error=self.on_environment_error == "stop",
            failed_reward=self.failed_reward,
            credit=self.credit,
            calls=TimedCalls(self.step_seconds),
        )

    @cached_property
    def _files(self) -> tuple[Path, ...]:
        return () if self.path is None else find_files(self.path, key="task.path")

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        learn, held_out = super()._split if self.path is not None else (self._made("learn"), self._made("held out"))
        for prompt in (*learn, *held_out):
            taken = [name for name in _OF_CONVERSATION if name in prompt.columns]
            if taken:
                raise DataError(f"a prompt of task {self.name} has the column {taken[0]}, a name that rlx reserves; rename it")
        return learn, held_out

    def _made(self, side: str) -> tuple[Prompt, ...]:
        """The environment's own prompts of one split."""
        count = self.num_prompts if side == "learn" else self.num_held_out
        given = self.environment.prompts(count, random.Random(f"{self.data_seed} {side}"))
        made = tuple(given) if isinstance(given, Iterable) else (given,)
        wrong = [item for item in made if not isinstance(item, Prompt)]
        if not made or wrong:
            said = f"{wrong[0]!r:.60}" if wrong else "none"
            raise DataError(
                f"prompts of {type(self.environment).__name__} gives {said}; it must give at least one rlx.task.base.Prompt"
            )
        return made

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.prompts())} to learn from, {len(self.held_out_prompts())} held out"
        source = type(self.environment).__name__ if self.path is None else self.path
        limits = f"{self.max_turns} turns" + ("" if self.max_tokens is None else f", {self.max_tokens} tokens")
        return {
            "prompts": f"{counts}, from {source}",
            "conversations": f"with {type(self.environment).__name__}, up to {limits}; credit by {self.credit}",
            "reward": self.reward_facts(),
        }

    def notes(self) -> Sequence[str]:
        return () if self.path is None else super().notes()

    def content_hash(self) -> str:
        return (super().content_hash() if self.path is not None else "") + self.environment.content_hash()
