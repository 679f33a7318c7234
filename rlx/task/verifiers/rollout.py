"""A rollout of the package verifiers that waits for the assistant's turns.

The package requests each turn from a client; rlx requests an answer to each turn from the environment. Here the package's
rollout runs as an asyncio task whose client passes each request on and waits until rlx has sampled the turn.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlx.task.base import Message, Text
from rlx.task.environment import ROLES, BrokenTurnError
from rlx.task.tool.base import Call
from rlx.task.verifiers.package import package, reward_errors

_PLAIN = "text"  # the role of a prompt without roles


@dataclass(eq=False)
class Request:
    """A turn requested by the rollout: the whole conversation so far, the available tools, and a future for the answer."""

    messages: Sequence[Any]
    tools: tuple[str, ...]
    answer: asyncio.Future[Any]


@dataclass(eq=False)
class WaitingRollout:
    """One rollout of one row. `begin` returns its first request's messages, `answer` passes a turn, `end` cuts it off.

    All three are awaited on one event loop. They raise BrokenTurnError if the rollout fails, or does something that rlx does not
    support; it is then cancelled. reward, metrics: from its rubric, once it has ended.
    """

    environment: Any
    row: Mapping[str, Any]
    tools: tuple[str, ...] = ()
    reward: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    _requests: asyncio.Queue[Request] | None = None
    _run: asyncio.Task[Any] | None = None
    _open: Request | None = None
    _seen: list[tuple[Any, ...]] = field(default_factory=list)
    _is_cut: bool = False
    _is_plain: bool = False  # whether the conversation is plain text, without roles
    _names: dict[str, str] = field(default_factory=dict)  # names of the called tools, by call id

    async def begin(self) -> Text:
        """The conversation up to the assistant's first turn."""
        self._requests = asyncio.Queue()
        self._run = asyncio.get_running_loop().create_task(self._play())
        request = await self._next()
        if request is None:
            raise BrokenTurnError("ended before the assistant's first turn")
        self._seen = [_signed(message) for message in request.messages]
        opening: Text = self._following(_opening, request.messages)
        self._is_plain = isinstance(opening, str)
        return opening

    async def answer(self, text: str, calls: Sequence[Call], *, is_cut: bool) -> str | tuple[Message, ...] | None:
        """The messages after the assistant's turn; None if the rollout has ended, and reward and metrics are set."""
        self._running()
        request = self._open
        assert request is not None
        response = self._response(text, calls, is_cut=is_cut)
        self._open = None
        if not request.answer.done():  # the environment's own time limit may have ended it
            request.answer.set_result(response)
        following = await self._next()
        if following is None:
            return None
        signed = [_signed(message) for message in following.messages]
        expected = [*self._seen, _signed(response.message)]
        if signed[: len(expected)] != expected:
            self._broken(
                "asks for a turn after other messages than the conversation's: an environment that rewrites or leaves out "
                "earlier turns has no conversation to learn from"
            )
        self._seen = signed
        if len(signed) == len(expected):
            self._broken("asks for another turn and says nothing in between")
        said: str | tuple[Message, ...] = self._following(
            _said, following.messages[len(expected) :], names=self._names, is_plain=self._is_plain
        )
        return said

    async def end(self) -> None:
        """Cut the rollout off, as the package does when the context is full; its rubric scores it as it is."""
        self._running()
        self._is_cut = True
        if self._open is not None and not self._open.answer.done():
            self._open.answer.set_exception(package().OverlongPromptError("a limit of rlx ended the conversation"))
        if await self._next() is not None:
            self._broken("asks for another turn after it was cut off")

    async def ask(self, messages: Sequence[Any], tools: Sequence[Any] | None) -> Any:
        """The assistant's turn after these messages; called by the rollout's client."""
        if self._is_cut:
            raise package().OverlongPromptError("a limit of rlx ended the conversation")
        assert self._requests is not None
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait(Request(messages, tuple(tool.name for tool in tools or ()), answer))
        return await answer

    def _running(self) -> asyncio.Task[Any]:
        """The task of the rollout. Raises BrokenTurnError if it belongs to an event loop that is gone."""
        assert self._run is not None
        if self._run.get_loop() is not asyncio.get_running_loop():
            raise BrokenTurnError("lost its event loop to a call that blocked it; an environment awaits what takes long")
        return self._run

    async def _play(self) -> Any:
        errors: list[str] = []
        reward_errors.set(errors)
        found = await self.environment.run_group([dict(self.row)], _client_class()(self), "rlx", {})
        if errors:
            raise BrokenTurnError(errors[0])
        return found[0]

    async def _next(self) -> Request | None:
        """The rollout's next request; None if it has ended."""
        assert self._requests is not None
        run, getter = self._running(), asyncio.ensure_future(self._requests.get())
        try:
            await asyncio.wait({run, getter}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # it took too long
            run.cancel()
            raise
        finally:
            getter.cancel()
        if run.cancelled():
            raise BrokenTurnError("cancelled its own rollout")
        if run.done():
            self._scored(run.result())
            return None
        request = getter.result()
        if not self._requests.empty():
            self._broken("asks for two turns at once; rlx samples one turn of a conversation at a time")
        if request.tools != self.tools:
            offered, told = (", ".join(names) or "none" for names in (request.tools, self.tools))
            self._broken(f"offers the tools {offered}, and its tool_defs were {told} when it was loaded; the prompt has these")
        self._open = request
        return request

    def _scored(self, found: Mapping[str, Any]) -> None:
        error = found.get("error")
        if error:
            raise BrokenTurnError(f"ended with {error['error_chain_repr']}")
        if found["reward"] is None:
            raise BrokenTurnError("ended without a reward")
        self.reward, self.metrics = found["reward"], dict(found["metrics"] or {})

    def _broken(self, what: str) -> None:
        self._running().cancel()
        raise BrokenTurnError(what)

    def _following(self, make: Any, messages: Sequence[Any], **kwargs: Any) -> Any:
        try:
            return make(messages, **kwargs)
        except BrokenTurnError:
            self._running().cancel()
            raise

    def _response(self, text: str, calls: Sequence[Call], *, is_cut: bool) -> Any:
        types = package().types
        made = [
            types.ToolCall(id=f"call_{len(self._names) + place}", name=call.name, arguments=json.dumps(dict(call.arguments)))
            for place, call in enumerate(calls)
        ]
        self._names |= {call.id: call.name for call in made}
        reason = "length" if is_cut else "tool_calls" if made else "stop"
        message = types.ResponseMessage(content=text, tool_calls=made or None, finish_reason=reason, is_truncated=is_cut)
        return types.Response(id="rlx", created=0, model="rlx", message=message)


@functools.cache
def _client_class() -> type:
    """The client of a rollout: a class of the package, imported on demand."""

    class WaitingClient(package().Client):  # type: ignore[misc]
        async def get_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **kwargs: Any) -> Any:
            return await self.client.ask(prompt, tools)

        def setup_client(self, config: Any) -> Any:
            return config

        async def to_native_tool(self, tool: Any) -> Any:
            return tool

        async def to_native_prompt(self, messages: Any) -> Any:
            return messages, {}

        async def get_native_response(self, prompt: Any, model: str, sampling_args: Any, tools: Any = None, **kwargs: Any) -> Any:
            return await self.client.ask(prompt, tools)

        async def raise_from_native_response(self, response: Any) -> None:
            return None

        async def from_native_response(self, response: Any) -> Any:
            return response

        async def close(self) -> None:
            return None

    return WaitingClient


# The package's messages and rlx's.


def _signed(message: Any) -> tuple[Any, ...]:
    """The parts of a message that identify it."""
    calls = tuple((call.id, call.name, call.arguments) for call in getattr(message, "tool_calls", None) or ())
    return getattr(message, "role", None), _content(message), calls, getattr(message, "tool_call_id", None)


def _content(message: Any) -> str:
    """The text of a message. Raises BrokenTurnError for what is not text."""
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    found = []
    for part in content:
        text = part.get("text")
        if not isinstance(text, str):
            raise BrokenTurnError(f"gave a message with {part!r:.60}; rlx trains language models on text alone")
        found.append(text)
    return "".join(found)


def _opening(messages: Sequence[Any]) -> Text:
    """Plain text if no message has a role, else messages, including the assistant's calls."""
    if all(message.role == _PLAIN for message in messages):
        return "".join(map(_content, messages))
    names: dict[str, str] = {}
    found = []
    for message in messages:
        calls = getattr(message, "tool_calls", None) or ()
        names |= {call.id: call.name for call in calls}
        written = _message(message, names)
        if calls:
            functions = [{"name": call.name, "arguments": json.loads(call.arguments)} for call in calls]
            written["tool_calls"] = [{"type": "function", "function": function} for function in functions]
        found.append(written)
    return tuple(found)


def _said(messages: Sequence[Any], names: Mapping[str, str], *, is_plain: bool) -> str | tuple[Message, ...]:
    """The environment's messages between two turns of the assistant."""
    if is_plain:
        return "".join(map(_content, messages))
    for message in messages:
        if message.role not in ROLES:
            raise BrokenTurnError(f"says a message of the role {message.role}; between two turns it is one of {', '.join(ROLES)}")
    return tuple(_message(message, names) for message in messages)


def _message(message: Any, names: Mapping[str, str]) -> dict[str, Any]:
    written = {"role": message.role, "content": _content(message)}
    if message.role == "tool":
        written["name"] = names.get(message.tool_call_id, message.tool_call_id)
    return written
