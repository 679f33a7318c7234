"""The tool environment: it runs the assistant's tool calls and answers with their results."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from rlx.errors import ConfigError, DataError
from rlx.fields import check_hyperparameters, count, within
from rlx.task.environment import Environment, Turn
from rlx.task.messages import with_system
from rlx.task.tool.base import FORMATS, Call, Tool, format_of, misfit
from rlx.task.tool.worker import ToolError, ToolWorkers

_DESCRIPTION = (
    "You may call tools. To call one, write\n"
    '<tool_call>{{"name": "NAME", "arguments": {{...}}}}</tool_call>\n'
    "and nothing else. The result comes in the next message. The tools:\n{schemas}"
)
_PROBE = Call("rlx_probe", {"rlx_key": "rlx"})


@dataclass(frozen=True, kw_only=True)
class ToolUse(Environment):
    """Runs the tool calls in a turn of the assistant; a turn without a call is the answer and ends the conversation.

    tools: name -> tool, chosen by task/tool. A failed call (no such tool, arguments that do not fit, a tool that raises or hangs)
    gives the tool message "error: ..." and counts as tool_errors; the conversation continues.
    call_seconds: time limit of a call, after which it is ended. num_workers: concurrent calls, each in its own process.
    max_calls: per turn; further ones are not run. max_characters: per result; the rest is left out.
    describes_tools: describe the tools in a system message (or the user's first message, if the chat template does not support
    system messages) and give results as user messages, for models whose chat template does not support tools.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 0.0)
    reads_special_tokens: ClassVar[bool] = True

    tools: Mapping[str, Tool | Callable[..., Any]]
    call_seconds: float = within(above=0)
    num_workers: int = count()
    max_calls: int = count()
    max_characters: int = count()
    describes_tools: bool

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if not self.tools:
            raise ConfigError(
                "task.environment.tools is empty; choose one or several: task=tool_file task/tool=[calculator,my_lab.search]"
            )
        made = [tool if isinstance(tool, Tool) else Tool(function=tool) for tool in self.tools.values()]
        object.__setattr__(self, "tools", {tool.name: tool for tool in made})
        if len(self.tools) < len(made):
            raise ConfigError(f"task.environment.tools has two functions of one name among {', '.join(self.tools)}; rename one")

    def __deepcopy__(self, memo: dict[int, Any]) -> ToolUse:
        return copy.copy(self)  # conversations share the processes, and keep their own data in `state`

    @cached_property
    def _workers(self) -> ToolWorkers:
        return ToolWorkers(seconds=self.call_seconds, most=self.num_workers)

    @cached_property
    def _read(self) -> Callable[[str], list[Call]]:
        return FORMATS["hermes"]  # as in the description; `for_policy` sets the chat template's format

    @cached_property
    def _reads_system(self) -> bool:
        return True  # `for_policy` checks the chat template

    def for_policy(self, policy: Any) -> ToolUse:
        """This environment with the call format of the policy's chat template.

        Raises ConfigError for a template that does not render tool schemas, or renders calls in an unsupported format.
        """
        twin = copy.copy(self)
        twin.__dict__.update(_workers=self._workers)
        if self.describes_tools:
            twin.__dict__.update(_reads_system=_reads_system(policy))
            return twin
        mend = "set task.environment.describes_tools=true, which describes them in a system message and asks for hermes' format, "
        twin.__dict__.update(_read=calls_reader(policy, self.tool_schemas(), mend=mend))
        return twin

    def tool_schemas(self) -> tuple[Mapping[str, Any], ...]:
        return () if self.describes_tools else tuple(tool.schema for tool in self._all.values())

    @property
    def _all(self) -> Mapping[str, Tool]:
        return self.tools  # type: ignore[return-value]

    def start(self, prompt: Any, **columns: Any) -> Any:
        self.state.update(tool_calls=0.0, tool_errors=0.0)
        messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
        if not self.describes_tools:
            return messages
        about = _DESCRIPTION.format(schemas="\n".join(json.dumps(tool.schema["function"]) for tool in self._all.values()))
        if messages[0]["role"] in ("system", "developer"):
            return ({**messages[0], "content": f"{messages[0]['content']}\n\n{about}"}, *messages[1:])
        asked = next((place for place, message in enumerate(messages) if message["role"] == "user"), None)
        if self._reads_system or asked is None:
            return with_system(messages, about)
        question = {**messages[asked], "content": f"{about}\n\n{messages[asked]['content']}"}
        return (*messages[:asked], question, *messages[asked + 1 :])

    async def step(self, completion: str) -> Turn:
        calls = self._read(completion)
        if not calls:
            return Turn(done=True)
        results = await asyncio.gather(*(self._result(place, call) for place, call in enumerate(calls)))
        self.state["tool_calls"] += len(calls)
        self.state["tool_errors"] += sum(is_error for _, is_error in results)
        names = [call.name if call.name in self.tools else "error" for call in calls]
        if self.describes_tools:
            return Turn("\n".join(f"<tool_response>\n{content}\n</tool_response>" for content, _ in results))
        return Turn(
            [{"role": "tool", "name": name, "content": content} for name, (content, _) in zip(names, results, strict=True)]
        )

    async def _result(self, place: int, call: Call) -> tuple[str, bool]:
        """The result of a call as text, and whether it is an error."""
        try:
            text = await self._called(place, call)
            if len(text) > self.max_characters:
                text = f"{text[: self.max_characters]}... ({len(text) - self.max_characters} more characters)"
            found = text, False
        except ToolError as error:
            found = f"error: {error}"[: self.max_characters], True
        return found[0].encode("utf-8", "replace").decode(), found[1]

    async def _called(self, place: int, call: Call) -> str:
        if call.error:
            raise ToolError(call.error)
        if place >= self.max_calls:
            raise ToolError(f"the turn has more than {self.max_calls} calls")
        tool = self._all.get(call.name)
        if tool is None:
            raise ToolError(f"there is no tool {call.name!r:.80}; there are {', '.join(self.tools)}")
        known = tool.schema["function"]["parameters"]["properties"]
        taken = sorted(set(call.arguments) - set(known))
        if taken:
            raise ToolError(f"{call.name} has no argument {taken[0]!r:.80}")
        wrong = next((said for name, value in call.arguments.items() if (said := misfit(value, known[name], name))), "")
        if wrong:
            raise ToolError(wrong)
        return await self._workers.call(tool.target, {**call.arguments, **tool.fixed})

    def figures(self) -> Mapping[str, float]:
        """The number of tool calls in the conversation, and of failed ones."""
        return {name: float(self.state.get(name, 0.0)) for name in ("tool_calls", "tool_errors")}


def _reads_system(policy: Any) -> bool:
    """Whether the policy's chat template supports a system message before a user message."""
    word = "rlxprobesystem"
    try:
        return word in policy.text.template.prompt(({"role": "system", "content": word}, {"role": "user", "content": "?"}))
    except DataError:  # the template refuses it
        return False


def calls_reader(policy: Any, schemas: Sequence[Mapping[str, Any]], *, mend: str) -> Callable[[str], list[Call]]:
    """A function that parses calls in the format of a policy's chat template.

    mend: further advice for errors. Raises ConfigError for a template that does not render tool schemas, or renders calls in an
    unsupported format.
    """
    template, otherwise = policy.text.template, f"{mend and f'{mend}or '}give another template with policy.chat_template=FILE"
    opening = ({"role": "user", "content": "?"},)
    if template.ignores_tools(opening, schemas, template.prompt(opening, schemas)):
        raise ConfigError(
            f"the chat template of {policy.name} does not write the schemas of tools, so the assistant would not know them; "
            f"{otherwise}"
        )
    written = template.written_call(_PROBE.name, _PROBE.arguments, schemas)
    name = format_of(written, _PROBE)
    if name is None:
        raise ConfigError(
            f"the chat template of {policy.name} writes a call of a tool as {written!r:.120}, and the formats that are read "
            f"are {', '.join(FORMATS)}; {otherwise}"
        )
    return FORMATS[name]
