"""A tokenizer's chat template: conversations to text, alone or many at once, within limits of memory and time."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.data.memory import bounded_memory, bounded_time
from rlx.data.turns import content_of, is_prefilled, with_arguments
from rlx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rlx.task.base import Message

# For conversations under a tokenizer without a chat template of its own, such as a base model's. What is said begins a line: most
# tokenizers would merge a space before it with its first word, and the prompt of sampling would have other tokens.
PLAIN_CHAT = (
    "{% for message in messages %}{{ message['role'] }}:{{ '\\n' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{{ '\\n' }}{% endif %}"
)
CHAT_TEMPLATES = ("auto", "always", "never")
_log = logging.getLogger(__name__)
_said_unread: set[tuple[str, str]] = set()  # variables and templates that were warned of
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_MOST_BYTES = 512 * 2**20  # that writing one conversation may take
_MOST_SECONDS = 10.0  # of the processor's time that one call of a template may take
_PROBE = ({"role": "user", "content": "rlx_probe"},)
_AT_ONCE = 64  # conversations that are rendered by one call


def _key(
    messages: Sequence[Message], tools: Sequence[Any], *, opens: bool = False, continues: bool = False, marked: bool = False
) -> tuple[Any, ...]:
    """Tells apart the renderings of messages and tools that are alive."""
    return (opens, continues, marked, id(tools) if tools else 0, *map(id, messages))


class UnsafeExampleError(Exception):
    """An example that is not safe to learn: the key of the reason, and what the template said."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.reason, self.said = reason, said


@dataclass(frozen=True)
class TemplateRenderer:
    """Renders conversations by a tokenizer's chat template, or by rlx's plain one.

    tokenizer: a transformers tokenizer. variables: further variables of the template (enable_thinking, say).
    """

    tokenizer: Any
    variables: Mapping[str, Any]

    def source(self, tools: Sequence[Any] = ()) -> str:
        """The Jinja template that a conversation with these tools goes through."""
        if self.tokenizer.chat_template is None:
            return PLAIN_CHAT
        try:
            return str(self.tokenizer.get_chat_template(None, list(tools) or None))
        except ValueError as error:  # several, and none of them the default
            raise ConfigError(f"{error}"[:300] + "; give one with policy.chat_template=FILE") from error

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template says itself, by `{% generation %}`, what the assistant writes."""
        return bool(_MARKS.search(self.source()))

    @cached_property
    def answer_opening(self) -> str:
        """What the template puts before an answer: a plain prompt that ends so was rendered already; empty without."""
        try:
            opened, closed = self.render(_PROBE, opens=True), self.render(_PROBE)
        except UnsafeExampleError:
            return ""
        if opened == closed:  # a user's turn opens the answer
            return opened.rpartition("rlx_probe")[2].rstrip()
        same = next((i for i, (a, b) in enumerate(zip(opened, closed, strict=False)) if a != b), min(len(opened), len(closed)))
        return opened[same:].rstrip()

    @cached_property
    def bos(self) -> str:
        """The bos that the template begins a conversation with; empty if it writes none."""
        bos = str(self.tokenizer.bos_token or "")
        with suppress(UnsafeExampleError):
            return bos if self.render(_PROBE).startswith(bos) else ""
        return ""

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] = (), *, opens: bool = False, continues: bool = False
    ) -> str:
        """The messages as the template writes them.

        opens: with the beginning of an answer after them; continues: without the end of the last one.

        Raises UnsafeExampleError if the template does.
        """
        return self._rendered(messages, tools, opens=opens, continues=continues, marked=False)[0]

    def _rendered(
        self, messages: Sequence[Message], tools: Sequence[Any], *, opens: bool, continues: bool, marked: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where the template marks generation."""
        known = self._ahead.get(_key(messages, tools, opens=opens, continues=continues, marked=marked))
        if known is not None:
            return known
        given = [[self._as_written(message) for message in messages]]
        return self._as_given(given, tools, opens=opens, continues=continues, marked=marked)[0]

    def _as_given(
        self, conversations: list[Any], tools: Sequence[Any], *, opens: bool, continues: bool, marked: bool
    ) -> list[tuple[str, list[tuple[int, int]]]]:
        """Of each conversation the text, and where the template marks generation."""
        from transformers.utils.chat_template_utils import render_jinja_template

        source = self.source(tools)
        try:
            with bounded_memory(_MOST_BYTES), bounded_time(_MOST_SECONDS):
                rendered: Any = render_jinja_template(
                    conversations=conversations,
                    tools=list(tools) or None,
                    chat_template=source,
                    return_assistant_tokens_mask=marked,
                    continue_final_message=continues,
                    add_generation_prompt=opens,
                    **{**self.tokenizer.special_tokens_map, **self.variables},
                )
                texts, marks = [str(text) for text in rendered[0]], rendered[1]
                "".join(texts).encode()  # half a surrogate pair is not text that a tokenizer takes
        except MemoryError as error:
            said = f"it builds a text of more than {_MOST_BYTES // 2**20} MiB"
            raise UnsafeExampleError("template", said) from error
        except TimeoutError as error:  # so would it for each of the others
            raise ConfigError(
                f"the chat template has written nothing after {_MOST_SECONDS:g} s; give another with policy.chat_template=FILE"
            ) from error
        except Exception as error:  # templates raise what they like: a role they do not know, a system message they refuse
            raise UnsafeExampleError("template", str(error)) from error
        return [(text, list(places)) for text, places in zip(texts, marks if marked else [()] * len(texts), strict=True)]

    def _as_written(self, message: Message) -> Message:
        """The message in the form that the template writes: its calls' arguments, no words beside them, and no weight."""
        if "weight" in message:
            message = {name: value for name, value in message.items() if name != "weight"}
        calls = message.get("tool_calls")
        if not isinstance(calls, (list, tuple)):
            return message
        arguments, without_content = self._call_form
        if without_content and not content_of(message):
            message = {**message, "content": None}
        if arguments is None:
            return message
        return {**message, "tool_calls": [with_arguments(call, as_text=arguments == "text") for call in calls]}

    @cached_property
    def _call_form(self) -> tuple[str | None, bool]:
        """How the template writes calls of tools right.

        The one form of arguments, "object" or "text", that it writes as one JSON object; None if it writes both, or none. Some
        write their JSON text as a string in quotes, others refuse an object. And whether it writes calls only of messages whose
        content is null, as DeepSeek's do.
        """
        for content in ("", None):
            right = []
            for form, arguments in (("object", {"rlx_key": "rlx"}), ("text", '{"rlx_key": "rlx"}')):
                call = {"type": "function", "id": "rlxprobe1", "function": {"name": "rlx_probe", "arguments": arguments}}
                messages = ({"role": "user", "content": "?"}, {"role": "assistant", "content": content, "tool_calls": [call]})
                with suppress(UnsafeExampleError):
                    ((written, _),) = self._as_given([list(messages)], (), opens=False, continues=False, marked=False)
                    if "rlx_key" in written and '\\"rlx_key' not in written:
                        right.append(form)
            if right:
                return right[0] if len(right) == 1 else None, content is None
        return None, False

    def opening(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The prompt as sampling sees it: an answer is opened, or the assistant's unfinished last message is continued."""
        if is_prefilled(messages):
            return self.render(messages, tools, continues=True)
        return self.render(messages, tools, opens=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """As `opening`; raises DataError if the template refuses the messages."""
        try:
            return self.opening(messages, tools)
        except UnsafeExampleError as error:
            roles = [message.get("role") for message in messages]
            mend = "leave such messages out, or give another template with policy.chat_template=FILE"
            raise DataError(f"the chat template refuses messages with the roles {roles}: {error.said}; {mend}") from error

    @cached_property
    def _ahead(self) -> dict[tuple[Any, ...], tuple[str, list[tuple[int, int]]]]:
        """What `write_all` has rendered: `_key` -> the text, and where the template marks generation."""
        return {}

    def _render_ahead(self, examples: Sequence[tuple[Sequence[Message], Sequence[Message], Sequence[Any]]]) -> None:
        """Render of each (messages, all turns, tools) the prompt and the whole, those with the same tools by one call.

        Where one of them is refused, all of that call are left to `_rendered`, which says which one and why.
        """
        asked: dict[tuple[Any, ...], dict[tuple[Any, ...], Sequence[Message]]] = {}
        given: dict[int, Sequence[Any]] = {0: ()}
        for messages, turns, tools in examples:
            for each in (tools, ()) if tools else ((),):  # the latter for `ignores_tools`
                given[id(each) if each else 0] = each
                asked.setdefault((id(each) if each else 0, True), {})[_key(messages, each, opens=True)] = messages
            number = id(tools) if tools else 0
            asked.setdefault((number, False), {})[_key(turns, tools, marked=self.marks_generation)] = turns
        for (number, opens), conversations in asked.items():
            keys, marked = list(conversations), self.marks_generation and not opens
            for start in range(0, len(keys), _AT_ONCE):
                some = keys[start : start + _AT_ONCE]
                texts = [[self._as_written(message) for message in conversations[key]] for key in some]
                with suppress(UnsafeExampleError):
                    made = self._as_given(texts, given[number], opens=opens, continues=False, marked=marked)
                    self._ahead.update(zip(some, made, strict=True))


def warn_of_unread(variables: Mapping[str, Any], template: str) -> None:
    """Say once of each variable of policy.chat_template_kwargs that the chat template does not mention: it changes nothing."""
    for name in (name for name, value in variables.items() if value is not None):
        if (name, template) not in _said_unread and not re.search(rf"\b{re.escape(name)}\b", template):
            _said_unread.add((name, template))
            why = "the chat template reads no such variable" if template else "the tokenizer has no chat template"
            _log.warning("policy.chat_template_kwargs.%s changes nothing: %s", name, why)


def template_file(path: str) -> str:
    """The chat template in a file."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"policy.chat_template={path} is none of {', '.join(CHAT_TEMPLATES)}, and there is no such file with a template"
        )
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy.chat_template={path} cannot be read as text: {error}") from error
