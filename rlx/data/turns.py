"""The content of a conversation's message: its text, reasoning and tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlx.task.base import Message

_SPEAKERS = ("\n\nHuman:", "\n\nAssistant:")  # speakers in plain-text transcripts, as in Anthropic's HH
_BEGINS_REASONING = re.compile(r"\s*<(think|thinking|reasoning)>")
REASONING = ("reasoning_content", "thinking", "reasoning")  # the message fields for reasoning


def special_pattern(special: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the texts of special tokens, preferring the longer of two with a common beginning."""
    return re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")


def refused_transcript(prompt: str, completion: str) -> tuple[str, str] | None:
    """Why a transcript's completion is left out: it contains turns of others, as when the sides differ before the last answer."""
    goes_on = _SPEAKERS[0] in prompt and any(speaker in completion for speaker in _SPEAKERS)
    return ("others_speak", "") if goes_on else None


def is_prefilled(messages: Sequence[Message]) -> bool:
    """Whether a prompt ends in the middle of the assistant's answer, which the completion continues."""
    return bool(messages) and messages[-1].get("role") == "assistant" and not messages[-1].get("tool_calls")


def excluded(messages: Iterable[Message]) -> set[str]:
    """The remarks on weights: answers that the data excludes, and turns of others that it would have learned."""
    weighed = [message for message in messages if "weight" in message]
    return {"excluded" if message.get("role") == "assistant" else "others_weighed" for message in weighed}


def joined(begun: Message, rest: Message) -> Message:
    """An answer and its continuation as one message, learned if the continuation is."""
    begun = {name: value for name, value in begun.items() if name != "weight"}
    return {**begun, **rest, "content": content_of(begun) + content_of(rest)}


def with_arguments(call: Any, *, as_text: bool) -> Any:
    """A tool call with its arguments as JSON text or as an object; unchanged if they are neither."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if as_text and isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, ensure_ascii=False)
    elif not as_text and isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            known = json.loads(arguments)
            arguments = known if isinstance(known, dict) else arguments
    return {**call, "function": {**function, "arguments": arguments}}


def content_of(message: Message) -> str:
    """The text of a message; "" if there is none."""
    content = message.get("content")
    return content if isinstance(content, str) else ""


def field_reasoning(message: Message) -> str:
    """The reasoning in a message's reasoning field; "" if there is none."""
    return next((str(message[name]) for name in REASONING if message.get(name)), "")


def reasoning_of(message: Message) -> str:
    """The reasoning of a message, in a field or before `</think>` in its text; "" if there is none."""
    return field_reasoning(message) or content_of(message).rpartition("</think>")[0].replace("<think>", "").strip()


def is_unclosed(content: str) -> bool:
    """Whether an answer begins with reasoning that it does not close."""
    begun = _BEGINS_REASONING.match(content)
    return begun is not None and f"</{begun[1]}>" not in content


def closes_before(content: str, said: str) -> bool:
    """Whether the template has closed the reasoning of an answer, or added a block of reasoning before it."""
    begun = _BEGINS_REASONING.match(content)
    if begun is None:
        return False
    return (is_unclosed(content) and not is_unclosed(said)) or said.count(f"<{begun[1]}>") > content.count(f"<{begun[1]}>")


def calls_of(message: Message) -> str:
    """The tool calls of a message as JSON text; empty if there are none."""
    calls = message.get("tool_calls")
    return json.dumps(calls, ensure_ascii=False, default=str) if calls else ""


def said_in(message: Message) -> str:
    """The whole content of a message: reasoning, text and calls."""
    return "\n".join((field_reasoning(message), content_of(message), calls_of(message)))


def loses(message: Message, said: str) -> bool:
    """Whether some words of a message's content or reasoning are missing in the rendered text."""
    return any(
        part not in said and _squashed(part) not in _squashed(said) for part in (content_of(message), field_reasoning(message))
    )


def dropped(message: Message, said: str) -> set[str]:
    """The remarks on parts of a message that the template left out."""
    parts = {"reasoning_dropped": field_reasoning(message), "content_dropped": content_of(message)}
    return {remark for remark, part in parts.items() if part not in said and _squashed(part) not in _squashed(said)}


def unseen(messages: Iterable[Message], text: str) -> set[str]:
    """The remarks on messages whose words are missing in the rendered text, as JSON or not, except the assistant's reasoning."""
    found = set()
    for message in messages:
        is_own, words = message.get("role") == "assistant", content_of(message).strip()
        words = words.rpartition("</think>")[2].strip() if is_own else words
        if words not in text and not any(
            _squashed(spelled) in _squashed(text)
            for spelled in (words, json.dumps(words, ensure_ascii=False)[1:-1], json.dumps(words)[1:-1])
        ):
            found.add("results_unseen" if message.get("role") == "tool" else "words_unseen")
    return found


def _squashed(text: str) -> str:
    """A text without white space, which templates strip and add."""
    return "".join(text.split())
