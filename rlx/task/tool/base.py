"""Tools that the assistant may call: functions with typed arguments, their JSON schemas, and the calls in its text."""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlx.config.targets import hints_of
from rlx.errors import ConfigError

_EXAMPLE = "a tool is a function of a module, like def search(query: str, limit: int = 5) -> str"
_ARGUMENTS = re.compile(r"^\s*(Args|Arguments|Parameters|Returns):?\s*$", re.MULTILINE)
_KINDS: Mapping[str, type] = {"integer": int, "string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
_SHOWN = 60  # characters of a value shown in an error
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A function with typed arguments: `def search(query: str, limit: int = 5) -> str`.

    Its docstring describes it to the assistant, including the entries under `Args:` for each argument. The assistant cannot set
    arguments that the config sets (task.environment.tools.search.function.limit=3). It runs in a worker process, which imports
    its module. Raises ConfigError for an argument without a type, or with a type that JSON does not have.
    """

    function: Callable[..., str]

    def __post_init__(self) -> None:
        _ = self.target, self.schema

    @property
    def _plain(self) -> Callable[..., Any]:
        plain: Callable[..., Any] = self.function.func if isinstance(self.function, functools.partial) else self.function
        return plain

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The arguments that the config sets."""
        return dict(self.function.keywords) if isinstance(self.function, functools.partial) else {}

    @property
    def name(self) -> str:
        """The name of the tool's function."""
        return str(getattr(self._plain, "__name__", ""))

    @property
    def target(self) -> tuple[str, str]:
        """(module, name) of the function, with which a worker process finds it."""
        module, name = getattr(self._plain, "__module__", ""), getattr(self._plain, "__qualname__", "")
        is_inner = module.startswith("rlx.") and not module.startswith("rlx.task.tool.")  # part of rlx, but not a tool
        if not module or module == "__main__" or not name or "<" in name or is_inner:
            raise ConfigError(f"task.environment.tools: {self._plain!r:.80} is not a tool that a process can import; {_EXAMPLE}")
        return module, name

    @cached_property
    def schema(self) -> Mapping[str, Any]:
        """{"type": "function", "function": {"name", "description", "parameters"}}, as created by transformers."""
        from transformers.utils import DocstringParsingException, TypeHintParsingException, get_json_schema

        own, hints = self.name, hints_of(self._plain)
        taken = list(inspect.signature(self._plain).parameters.values())
        for item in taken:
            if item.kind not in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY) or item.name not in hints:
                raise ConfigError(
                    f"task.environment.tools: the argument {item.name} of {own} has no name of its own or no type; {_EXAMPLE}"
                )
        unknown = sorted(set(self.fixed) - {item.name for item in taken})
        if unknown:
            raise ConfigError(f"task.environment.tools: {own} has no argument {unknown[0]}")
        about, said = _documented(inspect.getdoc(self._plain) or "", [item.name for item in taken])
        twin = _signature_alone(own, hints, taken)
        twin.__doc__ = f"{about or own}\n\nArgs:\n" + "".join(f"    {name}: {text or name}\n" for name, text in said.items())
        try:
            schema: dict[str, Any] = get_json_schema(twin)
        except (TypeHintParsingException, DocstringParsingException, KeyError, TypeError) as error:
            raise ConfigError(f"task.environment.tools: no JSON schema can be made of {own}: {error}") from error
        parameters = schema["function"]["parameters"]
        for name in self.fixed:
            parameters["properties"].pop(name)
        for name, text in said.items():
            if not text and name in parameters["properties"]:
                parameters["properties"][name].pop("description", None)
        parameters["required"] = [name for name in parameters.get("required", ()) if name not in self.fixed]
        return schema


def misfit(value: Any, schema: Mapping[str, Any], name: str) -> str:
    """A message for the assistant about a JSON value that does not fit an argument's schema; "" if it fits.

    The schema is one that transformers creates from a type. name: of the argument, such as tags or tags[0].
    """
    if value is None and schema.get("nullable"):
        return ""
    choices = schema.get("anyOf")
    if choices is not None:
        misfits = [misfit(value, choice, name) for choice in choices]
        return "" if "" in misfits else " or ".join(misfits)
    if "enum" in schema:
        is_one = any(value == known and type(value) is type(known) for known in schema["enum"])
        return "" if is_one else f"{name} is {_shown(value)}, and it is one of {json.dumps(schema['enum'])}"
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type", ())
    if kinds and not any(_is_kind(value, kind) for kind in kinds):
        return f"{name} is {_shown(value)}, and its type is {' or '.join(kinds)}"
    parts: list[tuple[Any, Mapping[str, Any], str]] = []
    if isinstance(value, list):
        known = schema.get("prefixItems")
        if known is not None and len(known) != len(value):
            return f"{name} has {len(value)} items, and it takes {len(known)}"
        each = known if known is not None else [schema.get("items", {})] * len(value)
        parts = [(part, kind, f"{name}[{place}]") for place, (part, kind) in enumerate(zip(value, each, strict=True))]
    elif isinstance(value, dict):
        parts = [(part, schema.get("additionalProperties", {}), f"{name}[{key!r:.40}]") for key, part in value.items()]
    return next((said for part in parts if (said := misfit(*part))), "")


def _is_kind(value: Any, kind: str) -> bool:
    """Whether a value has a JSON type; numbers must be finite, and a boolean is not a number."""
    if isinstance(value, bool):
        return kind in ("boolean", "any")
    if kind == "number":
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, _KINDS.get(kind, object))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _signature_alone(name: str, hints: Mapping[str, Any], taken: list[inspect.Parameter]) -> Any:
    """A function with this name and these arguments that does nothing."""

    def twin() -> None: ...

    twin.__name__ = twin.__qualname__ = name
    twin.__annotations__ = {item.name: hints[item.name] for item in taken}
    twin.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return twin


def _documented(text: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """The docstring's description of a function, and of each argument under `Args:`; "" if missing."""
    found = _ARGUMENTS.search(text)
    about, rest = (text, "") if found is None else (text[: found.start()], text[found.end() :])
    ended = _ARGUMENTS.search(rest)
    said: dict[str, str] = dict.fromkeys(names, "")
    last = ""
    for line in (rest if ended is None else rest[: ended.start()]).splitlines():
        begun = re.match(rf"\s*({_NAME.pattern})\s*(?:\([^)]*\))?\s*:\s*(.*)", line)
        if begun and begun[1] in said:
            last = begun[1]
            said[last] = begun[2].strip()
        elif last and line.strip():
            said[last] = f"{said[last]} {line.strip()}".strip()
    return about.strip(), said


# Tool calls in the assistant's text, in the format of each model family.
#
# | format | what the assistant writes |
# | --- | --- |
# | hermes (Hermes, Qwen, SmolLM) | `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, any number of them |
# | mistral | `[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]` |
# | llama3 | `{"name": ..., "parameters": {...}}` as the whole turn, after `<|python_tag|>` or not |


_TAG, _PYTHON_TAG, _TOOL_CALLS = "<tool_call>", "<|python_tag|>", "[TOOL_CALLS]"
_TAGGED = re.compile(rf"{_TAG}\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_AFTER_REASONING = "</think>"


@dataclass(frozen=True)
class Call:
    """A tool call. error: what is wrong with its format; then there are no arguments."""

    name: str
    arguments: Mapping[str, Any]
    error: str = ""


def hermes_calls(text: str) -> list[Call]:
    """The calls between tags, except those within reasoning."""
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
    """The text of a turn before its first call, as model servers return it; marks within reasoning are text.

    A turn with unmarked calls consists only of calls, so its text is empty.
    """
    reasoning, end, said = text.rpartition(_AFTER_REASONING)
    places = [said.index(mark) for mark in (_TAG, _PYTHON_TAG, _TOOL_CALLS) if mark in said]
    return f"{reasoning}{end}{said[: min(places)]}" if places else ""


def format_of(written: str, call: Call) -> str | None:
    """The format in which `written` is that call; None if it is not one of FORMATS."""
    return next((name for name, read in FORMATS.items() if read(written) == [call]), None)


def _read(body: str) -> list[Call]:
    """The calls in JSON text after a mark."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        return [Call("", {}, f"the call is not JSON: {error}")]
    return [_call(item) for item in (value if isinstance(value, list) else [value])] or [Call("", {}, "there is no call")]


def _read_unmarked(text: str, begins: str) -> list[Call]:
    """The calls of a turn that consists only of JSON calls and begins with one of these characters; other JSON is an answer."""
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
