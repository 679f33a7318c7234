"""Environments of the package verifiers as environments of rlx."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlx.errors import DataError
from rlx.task.base import Prompt, content_digest
from rlx.task.environment import BrokenTurnError, Environment, Turn
from rlx.task.messages import as_text
from rlx.task.tool.calls import Call, text_before_calls
from rlx.task.tool.environment import calls_reader
from rlx.task.verifiers.package import Row, loaded, rows_hash, split_rows
from rlx.task.verifiers.rollout import WaitingRollout

RUBRIC = "rubric_"  # before the names of the rubric's functions, which are logged beside rlx's own numbers


@dataclass(frozen=True, kw_only=True)
class VerifiersEnvironment(Environment):
    """Plays rollouts of an environment of verifiers: it asks for turns, and its rubric rewards the whole conversation at the end.

    env, load, parameters, held_out: as in VerifiersTask.
    """

    env: str
    load: Callable[..., Any]
    parameters: Mapping[str, Any]
    held_out: float

    @cached_property
    def made(self) -> Any:
        """The package's environment; its conversations share it. Raises ConfigError where there is none."""
        return loaded(self.load, self.env, self.parameters)

    @cached_property
    def rows(self) -> tuple[list[Row], list[Row], str]:
        """(rows to learn from, rows held out, how they were told apart)."""
        return split_rows(self.made, self.env, self.held_out)

    def __deepcopy__(self, memo: dict[int, Any]) -> VerifiersEnvironment:
        _ = self.made
        return copy.copy(self)  # what belongs to a conversation is in `state`

    def row_prompt(self, row: Row) -> Prompt:
        """The prompt of a row: `start` and the rewards get the row as the column `entry`, and its answer."""
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
        """Where there are tools: marks of calls are special tokens in some families of models."""
        return bool(self._tools)

    def for_policy(self, policy: Any) -> VerifiersEnvironment:
        """This environment, with tools in the format in which the policy's chat template writes calls."""
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
        """The text of a turn, and the calls of tools that it makes; a call that is no JSON is text."""
        read: Callable[[str], list[Call]] | None = self.__dict__.get("_read")
        if read is None:
            return completion, ()
        calls = [call for call in read(completion) if not call.error]
        text = text_before_calls(completion) if calls else completion
        for token in self.__dict__["_special"]:
            text = text.replace(token, "")
        return text.strip() if calls else text, calls

    def figures(self) -> Mapping[str, float]:
        """What each function of the rubric gave, under its name."""
        rollout: WaitingRollout = self.state["rollout"]
        return {f"{RUBRIC}{name}": float(value) for name, value in rollout.metrics.items()}

    def content_hash(self) -> str:
        """A hash of the rows and of what the environment was made with."""
        learn, held_out, _ = self.rows
        return content_digest([self.env, dict(self.parameters), rows_hash(learn), rows_hash(held_out)])


def _info(row: Row) -> Any:
    info = row.get("info")
    return info if isinstance(info, (Mapping, str)) else {}
