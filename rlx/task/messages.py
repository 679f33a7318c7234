"""Converts texts, conversations and tools from data files to rlx's form: a string, or a tuple of messages."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, cycle, pairwise
from typing import Any

from rlx.errors import DataError
from rlx.task.base import ROLES, Message, Text
from rlx.task.table import AbsentError

Tools = tuple[Mapping[str, Any], ...]

_PLAIN = {"role", "content"}
_SAYS = ("content", "tool_calls", "function_call", "reasoning_content", "thinking", "reasoning")
_LEARNS = ("weight", "train", "loss")  # message fields that say whether it is learned
_TURN = {"input": "user", "output": "assistant"}  # Capybara's keys; it stores question and answer together
_ROLES = {  # ShareGPT's speaker -> role; function_call is the assistant too
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function": "tool",
    **{role: role for role in ROLES},
}
_LINE_BREAK = re.compile(r"\\n(?!abla|eq\b|eg\b|otin|mid\b|u\b|e\b)")
_MESSAGES = re.compile(r"""\s*\[?\s*\{\s*["'](role|content|from|value)["']\s*:.*\}\s*\]?\s*\Z""", re.DOTALL)
_TEXTS = re.compile(r"""\s*\[\s*["'].*["']\s*\]\s*\Z""", re.DOTALL)
_OF_NUMPY = {"nan", "array", "object"}  # names in NumPy's text output
_ALONE = ({"role", "content"}, {"from", "value"})  # the keys of a single message without a list around it
_TRANSCRIPTS = (  # patterns for the beginning of a transcript, and for each of its turns
    (re.compile(r"\s*<\|im_start\|>"), re.compile(r"<\|im_start\|>(?P<role>\w+)\n(?P<said>.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)),
    (
        re.compile(r"\s*### Human:"),
        re.compile(r"### (?P<role>Human|Assistant):\s*(?P<said>.*?)\s*(?=### (?:Human|Assistant):|\Z)", re.DOTALL),
    ),
)
_BEGINS_TURN = "<|im_start|>"
_ENDS_ALL = re.compile(r"\s*(</s>|<\|endoftext\|>)?\s*\Z")
_TEXT_PARTS = ("text", "input_text", "output_text")


def as_text(value: Any, *, place: str, key: str) -> Text:
    """A string, or a non-empty list of messages as a tuple.

    A message is {"role", "content"}, or ShareGPT's {"from", "value"}; both accept either format's speaker names. Its content is
    text, a list of text parts, or null, which is empty. {"input", "output"} is a user's message and its answer, as in Capybara.
    A text that contains such a list as JSON or Python code is parsed, as text tables store conversations that way. Null fields
    are dropped, as Parquet gives each row every field that any row has. Raises DataError with the location if the value is
    neither, contains a part that is not text, or has an unknown speaker.
    """
    if isinstance(value, str):
        try:
            value = _spelled(value) or value
        except ValueError as error:
            raise DataError(
                f"{place}: {key!r} begins and ends as messages that are spelled as text, and is neither JSON nor Python: "
                f"{value!r:.60}; write it as JSON, or leave the row out"
            ) from error
    if isinstance(value, str):
        return value
    if value is None or value == []:
        raise AbsentError(place, f"{key!r} is {'null' if value is None else 'an empty list'}")
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, (list, tuple)) and value and all(isinstance(message, dict) for message in value):
        if all(message.keys() == _PLAIN and type(message["content"]) is str and message["role"] in ROLES for message in value):
            return tuple(value)  # as most are
        if all(turn.keys() == _TURN.keys() for turn in value):
            value = [
                {"role": role, "content": turn[name]} for turn in value for name, role in _TURN.items() if turn[name] is not None
            ]
        messages = [_plain(message, place=place, key=key) for message in without_nulls(value)]
        if all(_is_message(message) for message in value):
            return tuple(_message(message, place=place, key=key) for message in messages)
    raise DataError(f'{place}: {key!r} is neither text nor a list of messages like {{"role": "user", "content": "..."}}')


def as_conversation(value: Any, *, place: str, key: str) -> Text:
    """As `as_text`, of a column of whole conversations.

    A list of texts, or a text that spells one, is what the user and the assistant say in turn, as in LIMA. A text that is written
    as a transcript, with every turn after a mark of who speaks, is that conversation. Raises DataError if words of it stand in
    no turn.
    """
    if isinstance(value, str) and _TEXTS.match(value):
        with suppress(ValueError):
            value = _read(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(said, str) for said in value):
        return tuple({"role": role, "content": said} for role, said in zip(cycle(_TURN.values()), value, strict=False))
    told = _transcribed(value, place=place, key=key) if isinstance(value, str) else ()
    return told or as_text(value, place=place, key=key)


def is_transcript(value: Any) -> bool:
    """Whether a text has a speaker's mark before every turn, as OpenAssistant's conversations do."""
    return isinstance(value, str) and any(begins.match(value) for begins, _ in _TRANSCRIPTS)


def spells_messages(value: Any) -> bool:
    """Whether a text contains a list of messages, as in text tables, or begins and ends as if it did."""
    try:
        return isinstance(value, str) and _spelled(value) is not None
    except ValueError:
        return True


def _transcribed(text: str, *, place: str, key: str) -> tuple[Message, ...]:
    """The messages of a transcript in OpenAssistant's formats (ChatML, or ### Human:); () for any other text."""
    for begins, turn in _TRANSCRIPTS:
        if begins.match(text):
            turns = [(match["role"], match["said"]) for match in turn.finditer(text)]
            lost = next((said for _, said in turns if _BEGINS_TURN in said), turn.sub("", _ENDS_ALL.sub("", text)).strip())
            if lost:
                raise DataError(
                    f"{place}: the transcript in {key!r} has words in no turn of their own, {lost!r:.60}; a turn is "
                    "<|im_start|>ROLE, a line break, what is said, <|im_end|>"
                )
            return tuple({"role": _ROLES.get(role.lower(), role), "content": said} for role, said in turns)
    return ()


def _spelled(text: str) -> Any:
    """The messages that a text contains as a list; None for other text. Raises ValueError for a truncated list."""
    if not _MESSAGES.match(text):
        return None
    try:
        made = _read(text)
    except ValueError:
        if text.lstrip().startswith("[") and text.rstrip().endswith("]") and not _is_code(text):
            raise
        return None
    if isinstance(made, dict):
        return [made] if made.keys() in _ALONE else None
    return made if isinstance(made, list) and all(_is_message(part) for part in made) else None


def _is_code(text: str) -> bool:
    """Whether a text is a Python expression with names in it, except names that NumPy writes."""
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        nodes = ast.walk(ast.parse(text.strip(), mode="eval"))
        return not {node.id for node in nodes if isinstance(node, ast.Name)} <= _OF_NUMPY
    return False


def _read(text: str) -> Any:
    """The value of a text as JSON, Python, or NumPy output, which has no commas. Raises ValueError if it is none of these."""
    for read in (json.loads, _of_python):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            return read(text.strip())
    raise ValueError(text)


def _of_python(text: str) -> Any:
    """A Python literal, with the commas between list items that NumPy leaves out added."""
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    lines = [0, *accumulate(len(line) + 1 for line in text.split("\n"))]
    for before, after in reversed(list(pairwise(token for token in tokens if token.type not in (tokenize.NL, tokenize.NEWLINE)))):
        if before.type == after.type == tokenize.STRING or (before.string, after.string) == ("}", "{"):
            place = lines[before.end[0] - 1] + before.end[1]
            text = f"{text[:place]},{text[place:]}"
    return ast.literal_eval(text)


def _is_message(part: Any) -> bool:
    """Whether a JSON object has all keys of a message; other lists of objects are ordinary content."""
    if not isinstance(part, dict):
        return False
    return {"from", "value"} <= part.keys() or ("role" in part and any(name in part for name in _SAYS))


def _plain(message: Mapping[str, Any], *, place: str, key: str) -> dict[str, Any]:
    """A message with the keys role and content, converted from ShareGPT's keys."""
    if "from" not in message or "role" in message:
        return dict(message)
    speaker, said = message["from"], message.get("value", "")
    others = {name: value for name, value in message.items() if name not in ("from", "value")}
    if speaker == "function_call":
        return {"role": "assistant", "content": "", "tool_calls": _calls(said, place=place, key=key), **others}
    if not isinstance(speaker, str) or speaker.lower() not in _ROLES:
        raise DataError(
            f"{place}: a message in {key!r} is from {speaker!r:.60}, and rlx knows function_call, {', '.join(_ROLES)}; rename it"
        )
    return {"role": _ROLES[speaker.lower()], "content": said, **others}


def _calls(said: Any, *, place: str, key: str) -> list[dict[str, Any]]:
    """The tool calls in a function_call of ShareGPT: one, or a list of them, as JSON."""
    with suppress(ValueError, RecursionError):
        said = json.loads(said) if isinstance(said, str) else said
    calls = said if isinstance(said, list) else [said]
    if calls and all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        return [{"type": "function", "function": call} for call in calls]
    raise DataError(
        f'{place}: a function_call in {key!r} is {said!r:.60}; it is JSON such as {{"name": "add", "arguments": {{"a": 1}}}}'
    )


def before_answer(text: Text) -> Text:
    """A conversation up to its last answer."""
    if isinstance(text, str):
        return text
    return text[: max((n for n, message in enumerate(text, start=1) if message["role"] != "assistant"), default=0)] or text


def _message(message: dict[str, Any], *, place: str, key: str) -> Message:
    role = message.get("role")
    if not isinstance(role, str):
        raise DataError(f"{place}: the role of a message in {key!r} is {role!r:.60}; it is text, and messages are a list")
    message["role"] = _ROLES.get(role.strip().lower(), role)
    for name in ("tool_calls", "function_call"):
        if isinstance(message.get(name), str):
            message[name] = _as_json(message[name], name, place=place, key=key)
    if message.get("tool_calls") == []:
        del message["tool_calls"]
    _weigh(message, place=place, key=key)
    if "function_call" in message:  # the older form of a single call
        message["tool_calls"] = [{"type": "function", "function": message.pop("function_call")}]
    content = message.get("content", "")
    if isinstance(content, list):
        content = "".join(_part(part, place=place, key=key) for part in content)
    if not isinstance(content, str):
        raise DataError(f"{place}: the content of a message in {key!r} is {content!r:.60}; it is text, or a list of text parts")
    return {**message, "content": content}


def _as_json(text: str, name: str, *, place: str, key: str) -> Any:
    """The value of a message field given as JSON text, as in tables whose columns have one type."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {name} of a message in {key!r} is text, but not JSON: {text!r:.60}") from error


def _weigh(message: dict[str, Any], *, place: str, key: str) -> None:
    """Set "weight": 0 on an answer that must not be learned, and 1 on another role's turn that must be.

    Converts the fields of OpenAI (weight), axolotl (train) and ms-swift (loss, a boolean); torchtune's (masked) is the inverse.
    """
    names = [name for name in (*_LEARNS, "masked") if name in message]
    said = {name: message.pop(name) for name in names if name != "loss" or isinstance(message[name], bool)}
    if "train_detail" in message:
        raise DataError(f"{place}: a message in {key!r} has train_detail, and rlx learns whole answers; make turns of its parts")
    for name, value in said.items():
        if value not in (0, 1):  # includes true and false
            raise DataError(f"{place}: {name!r} of a message in {key!r} is {value!r:.60}; an answer is learned (1) or not (0)")
    wanted = {bool(value) != (name == "masked") for name, value in said.items()}
    if len(wanted) > 1:
        raise DataError(f"{place}: a message in {key!r} has {' and '.join(said)} that contradict each other; leave one")
    if wanted == {message["role"] != "assistant"}:
        message["weight"] = int(wanted.pop())


def _part(part: Any, *, place: str, key: str) -> str:
    """The text of a part of a message's content; "" if it is null, as null fields have already been dropped."""
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if kind in _TEXT_PARTS and isinstance(part, dict):
        if isinstance(text := part.get("text", "" if part.keys() == {"type"} else None), str):
            return text
        others = ", ".join(map(repr, sorted(part.keys() - {"type", "text"}))) or "nothing else"
        raise DataError(f"{place}: a message in {key!r} has a text part whose 'text' is missing or not text, beside {others}")
    raise DataError(
        f"{place}: a message in {key!r} has a part of the type {kind!r}; rlx trains language models on text alone, so leave such "
        "rows out"
    )


def without_nulls(value: Any) -> Any:
    """The value without null fields, at any depth."""
    if isinstance(value, dict):
        return {name: without_nulls(part) for name, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, (list, tuple)) else value


def as_tools(value: Any, *, place: str, key: str) -> Tools:
    """The schemas of tools: a list of JSON objects, or its JSON text; () if it is null or empty."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: {key!r} is text, but not JSON: {error}") from error
    if value is None or value in ("", []):
        return ()
    if isinstance(value, list) and all(isinstance(tool, dict) for tool in value):
        return tuple(without_nulls(value))
    raise DataError(f"{place}: {key!r} is not a list of tools; a tool is a JSON schema such as {{'type': 'function', ...}}")


def as_system(value: Any, *, place: str, key: str) -> str | None:
    """The text of a system message: a string, text parts, or only system messages; None if it is null or empty."""
    if value is None or value in ("", [], {}):
        return None
    if isinstance(value, list) and not any(isinstance(part, dict) and ("role" in part or "from" in part) for part in value):
        value = [{"role": "system", "content": value}]
    said = as_text(value, place=place, key=key)
    if isinstance(said, str):
        return said
    if any(message["role"] not in ("system", "developer") for message in said):
        raise DataError(f"{place}: {key!r} holds messages of others than the system; give its text, or put them into the prompt")
    return "\n\n".join(message["content"] for message in said)


def with_line_breaks(text: str) -> str:
    """A text from a command line, with backslash n converted to a line break; LaTeX commands (\\nabla) are kept."""
    return _LINE_BREAK.sub("\n", text)


def with_system(prompt: Text, system: str | None) -> Text:
    """The prompt with a system message before it; unchanged if `system` is empty or there already is one."""
    if not system:
        return prompt
    system = with_line_breaks(system)
    messages: Sequence[Message] = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    if messages and messages[0]["role"] in ("system", "developer"):
        return prompt
    return ({"role": "system", "content": system}, *messages)
