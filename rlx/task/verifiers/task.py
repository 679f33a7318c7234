"""The task of an environment of the package verifiers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rlx.config.loaders import loader_of
from rlx.config.targets import own_name
from rlx.errors import ConfigError
from rlx.fields import count, within
from rlx.task.base import Prompt
from rlx.task.environment import Environment
from rlx.task.environment_task import EnvironmentTask
from rlx.task.reward.base import Reward
from rlx.task.verifiers.environment import VerifiersEnvironment


@dataclass(frozen=True, kw_only=True)
class VerifiersTask(EnvironmentTask):
    """Conversations with an environment of the package verifiers, which its rubric rewards when they end.

    env: the environment's name, my-env or owner/my-env: the module my_env has the function load_environment. A dotted name is a
    class or function itself: verifiers.ReasoningGymEnv. load: what makes the environment, which env says. It is code, so a record
    that names it is trusted as one that names a class is.
    parameters: arguments of `load`.
    num_prompts, num_held_out: the most rows to learn from, and for the score; null: all.
    held_out: where the environment has no eval dataset, the share of its rows held out, chosen by a hash of the row.
    max_turns, max_tokens: rlx's limits of a conversation; the environment's own hold too. Where one of rlx's ends a conversation,
    the rubric scores it as it is.
    """

    env: str
    load: Callable[..., Any]
    parameters: Mapping[str, Any]
    num_prompts: int | None = count(optional=True)  # type: ignore[assignment]
    num_held_out: int | None = count(optional=True)  # type: ignore[assignment]
    held_out: float = within(above=0, below=1)

    environment: Environment = field(init=False, repr=False)
    path: None = field(init=False, default=None)
    data_seed: int = field(init=False, default=0)
    prompt_key: str = field(init=False, default="prompt")
    answer_key: str | None = field(init=False, default=None)
    system: str | None = field(init=False, default=None)
    system_key: str | None = field(init=False, default=None)
    tools_key: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        function = self.load.func if isinstance(self.load, functools.partial) else self.load
        named, own = loader_of(self.env), own_name(function)
        if own != named and not own.startswith(f"{named.rpartition('.')[0]}."):
            raise ConfigError(
                f"task.env={self.env} is made by {named}, and task.load is {own}; leave out task.load, which task.env sets"
            )
        made = VerifiersEnvironment(env=self.env, load=self.load, parameters=self.parameters, held_out=self.held_out)
        object.__setattr__(self, "environment", made)
        super().__post_init__()

    @property
    def _own(self) -> VerifiersEnvironment:
        assert isinstance(self.environment, VerifiersEnvironment)
        return self.environment

    @cached_property
    def _split(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        learn, held_out, _ = self._own.rows
        made = (
            tuple(self._own.row_prompt(row) for row in learn[: self.num_prompts]),
            tuple(self._own.row_prompt(row) for row in held_out[: self.num_held_out]),
        )
        for reward in self.all_rewards().values():
            if isinstance(reward, Reward):
                reward.require_answers([*made[0], *made[1]])
        return made

    def facts(self) -> Mapping[str, str]:
        counts = f"{len(self.prompts())} to learn from, {len(self.held_out_prompts())} held out by {self._own.rows[2]}"
        kind = type(self._own.made).__name__
        return {**super().facts(), "prompts": f"{counts}, of {self.env} ({kind} of verifiers)"}
