"""The task of an environment of the package verifiers, and that environment as one of rlx."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from rlx.config.targets import loader_of, own_name
from rlx.errors import ConfigError, DataError
from rlx.fields import count, within
from rlx.task.base import Prompt, content_digest
from rlx.task.environment import BrokenTurnError, Environment, Turn
from rlx.task.environment_task import EnvironmentTask
from rlx.task.messages import as_text
from rlx.task.reward.base import Reward
from rlx.task.tool.base import Call, text_before_calls
from rlx.task.tool.environment import calls_reader
from rlx.task.verifiers.package import Row, loaded, rows_hash, split_rows
from rlx.task.verifiers.rollout import WaitingRollout


@dataclass(frozen=True, kw_only=True)
class VerifiersTask(EnvironmentTask):
    """Conversations with an environment of the package verifiers, rewarded by its rubric when they end.

    env: the environment's name, my-env or owner/my-env: the module my_env has the function load_environment. A dotted name is a
    class or function itself: verifiers.ReasoningGymEnv. load: the function that creates the environment, determined by env. As it
    is code, a record that names it needs the same trust as one that names a class.
    parameters: arguments of `load`.
    num_prompts, num_held_out: the most rows for training, and for the score; null: all.
    held_out: if the environment has no eval dataset, the share of its rows that is held out, chosen by a hash of the row.
    max_turns, max_tokens: rlx's limits of a conversation; the environment's limits apply too. If one of rlx's ends a
    conversation, the rubric scores it as it is.
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


# Environments of the package verifiers as environments of rlx.


RUBRIC = "rubric_"  # prefix of the rubric's functions, which are logged beside rlx's own metrics


@dataclass(frozen=True, kw_only=True)
class VerifiersEnvironment(Environment):
    """Plays rollouts of a verifiers environment: it requests turns, and its rubric rewards the whole conversation at the end.

    env, load, parameters, held_out: as in VerifiersTask.
    """

    env: str
    load: Callable[..., Any]
    parameters: Mapping[str, Any]
    held_out: float

    @cached_property
    def made(self) -> Any:
        """The package's environment; its conversations share it. Raises ConfigError if there is none."""
        return loaded(self.load, self.env, self.parameters)

    @cached_property
    def rows(self) -> tuple[list[Row], list[Row], str]:
        """(training rows, held-out rows, how they were split)."""
        return split_rows(self.made, self.env, self.held_out)

    def __deepcopy__(self, memo: dict[int, Any]) -> VerifiersEnvironment:
        _ = self.made
        return copy.copy(self)  # a conversation's own data is in `state`

    def row_prompt(self, row: Row) -> Prompt:
        """The prompt of a row; `start` and the rewards get the row as the column `entry`, and its answer."""
        place = f"task.env={self.env}, row {row.get('example_id')}"
        if "tool_defs" in _info(row):
            raise DataError(f"{place}: this row has tools of its own (info.tool_defs); rlx offers those of the environment alone")
        text = as_text(row.get("prompt"), place=place, key="prompt")
        return Prompt(text, {"answer": row.get("answer"), "entry": row})

    @cached_property
    def _tools(self) -> tuple[str, ...]:
        return tuple(tool.name for tool in self.made.tool_defs or ())

    def tool_schemas(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
            }
            for tool in self.made.tool_defs or ()
        )

    @property
    def reads_special_tokens(self) -> bool:  # type: ignore[override]
        """True if there are tools: call marks are special tokens in some model families."""
        return bool(self._tools)

    def for_policy(self, policy: Any) -> VerifiersEnvironment:
        """This environment, with the tool-call format of the policy's chat template."""
        if not self._tools:
            return self
        twin = copy.deepcopy(self)
        special = tuple(policy.tokenizer.all_special_tokens)
        twin.__dict__.update(_read=calls_reader(policy, self.tool_schemas(), mend=""), _special=special)
        return twin

    async def start(self, prompt: Any, **columns: Any) -> Any:
        rollout = self.state["rollout"] = WaitingRollout(self.made, columns["entry"], self._tools)
        return await rollout.begin()

    async def step(self, completion: str) -> Turn:
        rollout: WaitingRollout = self.state["rollout"]
        text, calls = self._heard(completion)
        said = await rollout.answer(text, calls, is_cut=self.is_cut)
        return Turn(done=True, reward=self._earned(rollout)) if said is None else Turn(said)

    async def cut_off(self) -> float:
        """Let the rubric score the conversation as it is."""
        rollout: WaitingRollout = self.state["rollout"]
        await rollout.end()
        return self._earned(rollout)

    def _earned(self, rollout: WaitingRollout) -> float:
        if rollout.reward is None:
            raise BrokenTurnError("ended without a reward")
        return rollout.reward

    def _heard(self, completion: str) -> tuple[str, Sequence[Call]]:
        """The text of a turn, and its tool calls; a call that is not JSON is text."""
        read: Callable[[str], list[Call]] | None = self.__dict__.get("_read")
        if read is None:
            return completion, ()
        calls = [call for call in read(completion) if not call.error]
        text = text_before_calls(completion) if calls else completion
        for token in self.__dict__["_special"]:
            text = text.replace(token, "")
        return text.strip() if calls else text, calls

    def figures(self) -> Mapping[str, float]:
        """The result of each function of the rubric, by name."""
        rollout: WaitingRollout = self.state["rollout"]
        return {f"{RUBRIC}{name}": float(value) for name, value in rollout.metrics.items()}

    def content_hash(self) -> str:
        """A hash of the rows and of the environment's arguments."""
        learn, held_out, _ = self.rows
        return content_digest([self.env, dict(self.parameters), rows_hash(learn), rows_hash(held_out)])


def _info(row: Row) -> Any:
    info = row.get("info")
    return info if isinstance(info, (Mapping, str)) else {}
