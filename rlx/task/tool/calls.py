"""Calls of tools in what the assistant wrote, in the format of each family of models.

| format | what the assistant writes |
| --- | --- |
| hermes (Hermes, Qwen, SmolLM) | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of them |
| mistral | `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]` |
| llama3 | `{"name": ..., "parameters": {...}}` as the whole turn, after `<|python_tag|>` or not |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TAG, _PYTHON_TAG, _TOOL_CALLS = "<tool_call>", "<|python_tag|>", "[TOOL_CALLS]"
_TAGGED = re.compile(rf"{_TAG}\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_AFTER_REASONING = "</think>"


@dataclass(frozen=True)
class Call:
    """A call of a tool. error: what is wrong with how it is written; then there are no arguments."""

    name: str
    arguments: Mapping[str, Any]
    error: str = ""


def hermes_calls(text: str) -> list[Call]:
    """The calls between tags, those within a reasoning left out."""
    return [call for body in _TAGGED.findall(text.rpartition(_AFTER_REASONING)[2]) for call in _read(body)]


def mistral_calls(text: str) -> list[Call]:
    """The calls in the list after the mark, or in a turn that is such a list."""
    _, mark, rest = text.partition(_TOOL_CALLS)
    return _read(rest) if mark else _read_unmarked(text, "[")


def llama3_calls(text: str) -> list[Call]:
    """The call that a turn consists of."""
    _, mark, rest = text.partition(_PYTHON_TAG)
    return _read(rest) if mark else _read_unmarked(text, "{[")


FORMATS: Mapping[str, Callable[[str], list[Call]]] = {
    "hermes": hermes_calls,
    "mistral": mistral_calls,
    "llama3": llama3_calls,
}


def text_before_calls(text: str) -> str:
    """What a turn that makes calls says before the first of them, as servers of models give it; marks in a reasoning are text.

    A turn that makes calls without a mark consists of them, and says nothing.
    """
    reasoning, end, said = text.rpartition(_AFTER_REASONING)
    places = [said.index(mark) for mark in (_TAG, _PYTHON_TAG, _TOOL_CALLS) if mark in said]
    return f"{reasoning}{end}{said[: min(places)]}" if places else ""


def format_of(written: str, call: Call) -> str | None:
    """The format in which `written` is that call; None if it is none of FORMATS."""
    return next((name for name, read in FORMATS.items() if read(written) == [call]), None)


def _read(body: str) -> list[Call]:
    """The calls of JSON text that a mark calls such."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return [Call("", {}, f"the call is no JSON: {error}")]
    return [_call(item) for item in (value if isinstance(value, list) else [value])] or [Call("", {}, "there is no call")]


def _read_unmarked(text: str, begins: str) -> list[Call]:
    """The calls of a turn that is JSON of calls alone and begins with one of these characters; other JSON is an answer."""
    if not text.strip().startswith(tuple(begins)):
        return []
    found = _read(text)
    return [] if any(call.error for call in found) else found


def _call(item: Any) -> Call:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return Call("", {}, 'a call is {"name": ..., "arguments": {...}}')
    arguments = item.get("arguments", item.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict):
        return Call(item["name"], {}, 'the arguments of a call are an object: {"name": ..., "arguments": {...}}')
    return Call(item["name"], arguments)
