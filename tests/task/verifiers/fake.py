"""A small module in the place of the package verifiers: what rlx uses of it, by the same names."""

from __future__ import annotations

import functools
import sys
import types
from dataclasses import dataclass, field
from typing import Any

from rlx.task.verifiers import rollout
from rlx.task.verifiers.task import VerifiersTask
from tests.task.environments import SETTINGS


class OverlongPromptError(Exception):
    pass


class Client:
    def __init__(self, client):
        self.client = client


@dataclass
class Said:
    """A message of the package, or a call of a tool."""

    role: str = ""
    content: Any = ""
    tool_calls: Any = None
    tool_call_id: Any = None
    id: str = ""
    name: str = ""
    arguments: str = ""
    description: str = ""
    parameters: dict = field(default_factory=dict)


def user(text):
    return Said("user", text)


class Rubric:
    requires = False

    def __init__(self, funcs=()):
        self.funcs = list(funcs)


class Rows(list):
    def to_list(self):
        return list(self)


class Environment:
    """The script of a rollout: `talk(ask, row)` gives its reward; `ask(messages)` is the assistant's turn as text."""

    requires_group_rollouts = provides_advantages = False
    score_rollouts = True
    tool_defs = None

    def __init__(self, talk, rows=6, evaluate=0, funcs=()):
        self.talk, self.rubric, self.ended = talk, Rubric(funcs), []
        self.learn, self.evaluate = (
            Rows({"prompt": f"{begin + n}+0=", "answer": str(n), "example_id": n} for n in range(count))
            for begin, count in ((0, rows), (100, evaluate))
        )

    def build_dataset(self):
        return self.learn

    def build_eval_dataset(self):
        return self.evaluate or None

    async def run_group(self, inputs, client, model, sampling_args):
        async def ask(*messages, tools=None):
            response = await client.get_response(list(messages), model, sampling_args, tools=tools)
            return response.message

        error = None
        try:
            reward = await self.talk(ask, inputs[0])
        except OverlongPromptError:
            reward = 0.25  # as far as it came
        finally:
            self.ended.append(inputs[0]["example_id"])
        if isinstance(reward, str):
            error, reward = {"error_chain_repr": reward}, 0.0
        metrics = {}
        for function in self.rubric.funcs:
            try:
                metrics[function.__name__] = await function(inputs[0])
            except Exception:  # the package logs it and scores 0
                metrics[function.__name__] = 0.0
        return [{"reward": reward, "metrics": metrics, "error": error}]


class MultiTurnEnv(Environment):
    pass


class EnvGroup(Environment):
    pass


def response_message(content, tool_calls, finish_reason, is_truncated):
    return Said("assistant", content, tool_calls)


def install(monkeypatch):
    """Make `import verifiers` give this module."""
    module = sys.modules[__name__]
    kinds = types.SimpleNamespace(
        ToolCall=lambda **given: Said(**given), ResponseMessage=response_message, Response=types.SimpleNamespace
    )
    monkeypatch.setattr(module, "types", kinds)
    monkeypatch.setitem(sys.modules, "verifiers", module)
    rollout._client_class.cache_clear()
    monkeypatch.setattr(rollout, "_client_class", rollout._client_class.__wrapped__)


# A task with a script in the place of an environment.

NOT_TAKEN = ("path", "data_seed", "prompt_key", "answer_key")


def task_of(made, **changes):
    def load_environment(size: int = 3):
        return made() if callable(made) else made

    load_environment.__module__, load_environment.__qualname__ = "my_env", "load_environment"
    settings = {key: value for key, value in SETTINGS.items() if key not in NOT_TAKEN}
    more = {"env": "my-env", "parameters": {}, "num_prompts": None, "num_held_out": None, "held_out": 0.3}
    return VerifiersTask(load=functools.partial(load_environment), **{**settings, **more, **changes})


async def twice(ask, row):
    """Two turns; the reward is 1, and 1 more where the second turn is `yes`."""
    opening = user(row["prompt"])
    first = await ask(opening)
    second = await ask(opening, first, user("sure?"))
    return 1.0 + (second.content == "yes")
