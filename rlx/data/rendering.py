"""Renders conversations to text with a tokenizer's chat template, one or many at once, within limits of memory and time."""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlx.data.turns import content_of, is_prefilled, with_arguments
from rlx.errors import ConfigError, DataError
from rlx.interrupt import handled

if TYPE_CHECKING:
    from rlx.task.base import Message

# For tokenizers without a chat template, such as a base model's. Message text begins on a new line: most tokenizers would merge
# a space before it with its first word, and the sampled prompt would have different tokens.
PLAIN_CHAT = (
    "{% for message in messages %}{{ message['role'] }}:{{ '\\n' }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{{ '\\n' }}{% endif %}"
)
CHAT_TEMPLATES = ("auto", "always", "never")
_log = logging.getLogger(__name__)
_said_unread: set[tuple[str, str]] = set()  # (variable, template) pairs already warned about
_MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
_MOST_BYTES = 512 * 2**20  # memory limit for rendering one conversation
_MOST_SECONDS = 10.0  # CPU time limit for one call of a template
_PROBE = ({"role": "user", "content": "rlx_probe"},)
_AT_ONCE = 64  # conversations rendered per call


def _key(
    messages: Sequence[Message], tools: Sequence[Any], *, opens: bool = False, continues: bool = False, marked: bool = False
) -> tuple[Any, ...]:
    """A key that distinguishes the renderings of messages and tools that are alive."""
    return (opens, continues, marked, id(tools) if tools else 0, *map(id, messages))


_STATISTICS = Path("/proc/self/statm")
_limits = threading.RLock()  # the limit applies to the process: two threads that set it would reset each other's


@contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Let this process grow by at most `size` bytes; larger allocations raise MemoryError. No limit if /proc does not exist.

    Only one thread at a time can be in this context.
    """
    if not _STATISTICS.exists():
        yield
        return
    import resource

    with _limits:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(_STATISTICS.read_bytes().split()[0]) * os.sysconf("SC_PAGE_SIZE") + size
        limits = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def bounded_time(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after this many seconds of CPU time. No limit outside the main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    with handled(stop, [signal.SIGVTALRM]):
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)


class UnsafeExampleError(Exception):
    """An example is not safe to learn: the key of the reason, and the template's message."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.reason, self.said = reason, said


@dataclass(frozen=True)
class TemplateRenderer:
    """Renders conversations with a tokenizer's chat template, or with rlx's plain one.

    tokenizer: a transformers tokenizer. variables: further variables of the template, such as enable_thinking.
    """

    tokenizer: Any
    variables: Mapping[str, Any]

    def source(self, tools: Sequence[Any] = ()) -> str:
        """The Jinja template used for a conversation with these tools."""
        if self.tokenizer.chat_template is None:
            return PLAIN_CHAT
        try:
            return str(self.tokenizer.get_chat_template(None, list(tools) or None))
        except ValueError as error:  # several templates without a default
            raise ConfigError(f"{error}"[:300] + "; give one with policy.chat_template=FILE") from error

    @cached_property
    def marks_generation(self) -> bool:
        """Whether the template itself marks the assistant's text, with `{% generation %}`."""
        return bool(_MARKS.search(self.source()))

    @cached_property
    def answer_opening(self) -> str:
        """The text that the template puts before an answer, "" if none; a plain prompt that ends with it is already rendered."""
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
        """The bos token with which the template begins a conversation; "" if it writes none."""
        bos = str(self.tokenizer.bos_token or "")
        with suppress(UnsafeExampleError):
            return bos if self.render(_PROBE).startswith(bos) else ""
        return ""

    def closing_token(self, ends: Mapping[str, int], special: Mapping[str, int]) -> int | None:
        """The token with which the template closes an answer; None if there is none. ends, special: texts -> tokens.

        The first of `ends` between an answer and the next message (it may open that message, as in GLM's templates); if there is
        none, the first of `special` after a last answer.
        """
        messages = (*_PROBE, {"role": "assistant", "content": "rlx_answer"})
        for added, known in ((({"role": "user", "content": "rlx_next"},), ends), ((), special)):
            with suppress(UnsafeExampleError):
                after = self.render((*messages, *added)).rpartition("rlx_answer")[2].partition("rlx_next")[0]
                if found := [(after.index(text), -len(text), token) for text, token in known.items() if text in after]:
                    return min(found)[2]
        return None

    def render(
        self, messages: Sequence[Message], tools: Sequence[Any] = (), *, opens: bool = False, continues: bool = False
    ) -> str:
        """Render the messages with the template.

        opens: append the beginning of an answer; continues: leave out the end of the last message.

        Raises UnsafeExampleError if the template raises an error.
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
        """For each conversation the text, and where the template marks generation."""
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
                "".join(texts).encode()  # tokenizers do not accept half a surrogate pair
        except MemoryError as error:
            said = f"it builds a text of more than {_MOST_BYTES // 2**20} MiB"
            raise UnsafeExampleError("template", said) from error
        except TimeoutError as error:  # the other conversations would time out too
            raise ConfigError(
                f"the chat template has written nothing after {_MOST_SECONDS:g} s; give another with policy.chat_template=FILE"
            ) from error
        except Exception as error:  # templates raise various types, e.g. for an unknown role or a refused system message
            raise UnsafeExampleError("template", str(error)) from error
        return [(text, list(places)) for text, places in zip(texts, marks if marked else [()] * len(texts), strict=True)]

    def _as_written(self, message: Message) -> Message:
        """The message in the form that the template supports: arguments of calls, no text beside calls, and no weight."""
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
        """The form of tool calls that the template renders correctly.

        The form of arguments, "object" or "text", that it renders as one object; None if it renders both alike, or neither. Some
        templates render JSON text as a quoted string, others refuse an object or write it as Python does. If both forms are
        rendered in different ways, as Gemma 4 does, it is the object's. Also whether it renders calls only of messages
        whose content is null, as DeepSeek's do.
        """
        for content in ("", None):
            right = {}
            for form, arguments in (("object", {"rlx_key": "rlx"}), ("text", '{"rlx_key": "rlx"}')):
                call = {"type": "function", "id": "rlxprobe1", "function": {"name": "rlx_probe", "arguments": arguments}}
                messages = ({"role": "user", "content": "?"}, {"role": "assistant", "content": content, "tool_calls": [call]})
                with suppress(UnsafeExampleError):
                    ((written, _),) = self._as_given([list(messages)], (), opens=False, continues=False, marked=False)
                    if "rlx_key" in written and '\\"rlx_key' not in written and "{'rlx_key'" not in written:
                        right[form] = "".join(written.split())
            if right:
                alike = right.get("object") == right.get("text")
                return None if alike else next(iter(right)), content is None
        return None, False

    def opening(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The prompt that sampling continues: it opens an answer, or continues the assistant's unfinished last message."""
        if is_prefilled(messages):
            return self.render(messages, tools, continues=True)
        return self.render(messages, tools, opens=True)

    def prompt(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """Like `opening`; raises DataError if the template refuses the messages."""
        try:
            return self.opening(messages, tools)
        except UnsafeExampleError as error:
            roles = [message.get("role") for message in messages]
            mend = "leave such messages out, or give another template with policy.chat_template=FILE"
            raise DataError(f"the chat template refuses messages with the roles {roles}: {error.said}; {mend}") from error

    @cached_property
    def _ahead(self) -> dict[tuple[Any, ...], tuple[str, list[tuple[int, int]]]]:
        """The renderings prepared by `write_all`: `_key` -> the text, and where the template marks generation."""
        return {}

    def _render_ahead(self, examples: Sequence[tuple[Sequence[Message], Sequence[Message], Sequence[Any]]]) -> None:
        """Render the prompt and the whole of each (messages, all turns, tools), with one call for those with the same tools.

        If one of them is refused, all of that call are left to `_rendered`, which reports which one and why.
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
    """Warn once about each variable of policy.chat_template_kwargs that the chat template does not use."""
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
