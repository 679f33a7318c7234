"""Environments of a user's, for tests: a two-player game, one that fails, one with rewards of turns, an async one."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from rlx.task.environment import Environment, Turn
from rlx.task.environment_task import EnvironmentTask

SETTINGS = {
    "name": "talk",
    "path": None,
    "num_prompts": 6,
    "num_held_out": 4,
    "data_seed": 0,
    "environment_weight": 1.0,
    "max_turns": 4,
    "max_tokens": None,
    "max_new_tokens": 5,
    "step_seconds": 30.0,
    "on_environment_error": "fail",
    "credit": "episode",
    "prompt_key": "prompt",
    "answer_key": None,
    "held_out": 0.1,
    "rewards": {},
    "on_reward_error": "stop",
    "failed_reward": -1.0,
    "full_reward": None,
}


def task_of(environment, **changes):
    return EnvironmentTask(environment=environment, **{**SETTINGS, **changes})


class Counting(Environment):
    """Goes on for `turns` turns; every turn is rewarded with its number."""

    def __init__(self, turns: int = 3) -> None:
        self.turns = turns

    def start(self, prompt, seed):
        self.seen = []
        return f"{seed % 10}+1="

    def step(self, completion):
        self.seen.append(completion)
        return Turn("2+3=", reward=float(len(self.seen)), done=len(self.seen) == self.turns)


class Chatting(Counting):
    """The same in messages."""

    def start(self, prompt, seed):
        self.seen = []
        return [{"role": "system", "content": "Count."}, {"role": "user", "content": f"{seed % 10}?"}]

    def step(self, completion):
        turn = super().step(completion)
        return Turn([{"role": "user", "content": f"no {len(self.seen)}"}], turn.reward, turn.done)


@dataclass(frozen=True, kw_only=True)
class TwoPlayers(Environment):
    """A frozen class: the other player draws from the conversation's own random numbers."""

    sides: int = 6

    def start(self, prompt, seed):
        self.state["moves"] = []
        return "0+0="

    def step(self, completion):
        self.state["moves"].append(self.rng.randint(1, self.sides))
        return Turn(f"{self.state['moves'][-1]}=", done=len(self.state["moves"]) == 3)


class Awaited(Counting):
    """The same as Counting, async."""

    async def start(self, prompt, seed):
        await asyncio.sleep(0.001)
        return super().start(prompt, seed)

    async def step(self, completion):
        await asyncio.sleep(0.05)
        return super().step(completion)


class Failing(Counting):
    """What is done instead of the second turn of some conversations."""

    def __init__(self, fault) -> None:
        super().__init__()
        self.fault = fault

    def step(self, completion):
        turn = super().step(completion)
        if len(self.seen) == 2 and self.rng.random() < 0.5:
            if self.fault == "raises":
                raise ValueError("the board is broken")
            if self.fault == "hangs":
                time.sleep(1.0)
            if self.fault == "nonsense":
                return "higher"
            if self.fault == "silent":
                return Turn()
            if self.fault == "not finite":
                return Turn("x", reward=float("nan"))
        return turn
