"""The tokens between two turns of the assistant in a running conversation: the messages of the user, environment or tools.

Turns that a policy sampled keep their sampled tokens: they are never rendered or tokenised again. Only the text that follows a
turn is created here, as the chat template writes it after an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rlx.data.rendering import UnsafeExampleError
from rlx.data.sequences import Tokens
from rlx.data.tokenizer import Piece
from rlx.data.turns import content_of, is_prefilled, unseen
from rlx.errors import DataError

if TYPE_CHECKING:
    from rlx.data.tokens import TextEncoder
    from rlx.task.base import Message, Text

_ANSWER, _CALL = "rlxprobeanswer", "rlxprobecall"  # placeholders for the assistant's answer, and an argument of its call
_TOOL = "rlxprobetool"  # placeholder for the name of the tool that it called, if the result does not give one
_SPELLED = "rlxprobespelled"  # placeholder for a special token spelled in the messages of others
_CALL_ID = "rlx000001"  # nine letters and digits, as Mistral's template demands


def encode_continuation(
    encoder: TextEncoder,
    opening: Text,
    so_far: Sequence[Message],
    said: str | Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    ended: bool,
    remarks: set[str] | None = None,
) -> Tokens:
    """int64 [T]: the tokens from the end of an assistant's turn to the beginning of its next turn.

    A special token spelled in `said` is read as plain text: only the template's own special tokens are control tokens. If the
    opening was already rendered by the template, a text in `said` counts as rendered too, and is read as written.
    opening: the conversation up to the first turn. so_far: all messages after it, ending with the assistant's last turn.
    said: the new messages of others; a text is one user message, or plain text in a plain-text conversation.
    ended: whether the turn ended with an end-of-generation token, so that none must be added.
    remarks: a set that receives "special_plain" if special tokens spelled in `said` became plain text, "special_text" if they
    became control tokens because the tokenizer or template cannot distinguish them, and "words_unseen" or "results_unseen" if
    the template leaves out messages.
    Raises DataError if the chat template refuses the messages, and for messages in a conversation of plain text.
    """
    messages = encoder._messages(opening)
    if messages is None:
        if not isinstance(said, str):
            raise DataError(
                "a conversation that begins with plain text continues in plain text, not in messages: let the environment send "
                "texts, begin with messages, or set policy.chat_template=always"
            )
        if encoder.is_rendered(str(opening)):
            return encoder._encode_texts([said], special=False)[0].tokens
        return _encode(encoder, _pieces(encoder, said), "", remarks, ended=False)
    before = (*messages[: len(messages) - is_prefilled(messages)], *so_far[:-1])
    following = ({"role": "user", "content": said},) if isinstance(said, str) else tuple(said)
    calls = any(message.get("role") == "tool" for message in following)
    try:
        pieces, end_text = _turn_pieces(encoder, before, following, tools, calls=calls)
    except UnsafeExampleError as error:
        roles = [message.get("role") for message in (*messages, *so_far, *following)]
        raise DataError(
            f"the chat template refuses a conversation that continues with the roles {roles}: {error.said or error.reason}; let "
            "the environment use other roles, or give another template with policy.chat_template=FILE"
        ) from error
    if remarks is not None:
        remarks |= unseen(following, "".join(part for part, _ in pieces))
    return _encode(encoder, pieces, end_text, remarks, ended=ended)


def _encode(encoder: TextEncoder, pieces: Sequence[Piece], end_text: str, remarks: set[str] | None, *, ended: bool) -> Tokens:
    """The tokens of a turn's end and the text after it; without the end if the turn `ended` already."""
    kinds = {kind for _, kind in pieces}
    tokens = None
    if kinds == {True, False}:
        tokens = encoder.control_tokens.encode([(end_text, True), *pieces], after=int(ended))
    if remarks is not None and kinds != {True}:
        remarks.add("special_text" if tokens is None else "special_plain")
    if tokens is not None:
        return tokens
    cut = encoder._encode_texts([end_text + "".join(text for text, _ in pieces)], special=False)[0]
    return cut.tokens[encoder._begin_of(cut, len(end_text))[0] :] if ended else cut.tokens


def _pieces(encoder: TextEncoder, said: str) -> list[Piece]:
    """Split the messages of others into ordinary text and spelled special tokens."""
    parts = re.split(f"({encoder.control_tokens.pattern.pattern})", said)
    return [(part, place % 2 == 0) for place, part in enumerate(parts)]


def _turn_pieces(
    encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any], *, calls: bool
) -> tuple[list[Piece], str]:
    """The text that the template writes after an answer's end, in pieces, and that end ("" if there is none).

    Special tokens spelled in the messages of others are separate pieces, not control tokens. They are located by rendering the
    conversation with placeholders instead; if that does not give the same text, all of it is one piece that may contain them.
    """
    spelled: list[str] = []

    def hidden(match: re.Match[str]) -> str:
        spelled.append(match[0])
        return f"{_SPELLED}{len(spelled) - 1}x"

    pattern = encoder.control_tokens.pattern
    others = [{**message, "content": pattern.sub(hidden, content_of(message))} for message in following]
    text, end_text = _after_answer(encoder, before, others if spelled else following, tools, calls=calls)
    if not spelled:
        return [(text, True)], end_text
    parts = re.split(f"{_SPELLED}([0-9]+)x", text)
    pieces = [(spelled[int(part)], False) if place % 2 else (part, True) for place, part in enumerate(parts)]
    if _whole(encoder, before, following, tools).endswith("".join(part for part, _ in pieces)):
        return pieces, end_text
    text, end_text = _after_answer(encoder, before, following, tools, calls=calls)
    return [(text, False)], end_text


def _whole(encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any]) -> str:
    """The rendered conversation with an assistant's answer and the messages after it, up to the next answer.

    An answer that a tool follows is a call without words, as some templates write the words after the result; it is words if the
    template leaves out calls.
    """
    answer: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
    if following[0].get("role") == "tool":
        with suppress(UnsafeExampleError):
            turns = _with_calls((*before, {**answer, "content": ""}, *following))
            if _CALL in (called := encoder.template.render(turns, tools, opens=True)):
                return called
    return encoder.template.render(_with_calls((*before, answer, *following)), tools, opens=True)


def _after_answer(
    encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any], *, calls: bool
) -> tuple[str, str]:
    """The text that the template writes between an answer's end and the next answer, and that end ("" if there is none)."""
    whole = _whole(encoder, before, following, tools)
    place = max(whole.rfind(name) + len(name) if name in whole else -1 for name in (_ANSWER, _CALL))
    if place < 0:
        raise UnsafeExampleError("rewrites", "it leaves out what the assistant said before")
    spoken = content_of(following[0]).strip()
    limit = whole.find(spoken, place) if spoken else -1
    limit = len(whole) if limit < 0 else limit
    found = [(at, end) for end in encoder.template.ends if 0 <= (at := whole.find(end, place)) < limit]
    if not found and calls:
        raise UnsafeExampleError("tool_calls", "it closes a call of a tool with no token that ends generation")
    if _TOOL in whole[place:]:
        raise UnsafeExampleError(
            "tool_calls", "a tool's result repeats the name of the tool, which the message does not give as name"
        )
    if not found:
        return whole[place:], ""
    at, end = min(found)
    return whole[at + len(end) :], end


def _with_calls(messages: Sequence[Message]) -> list[Message]:
    """The messages, with a tool call added to each assistant's turn that a tool answers, as templates require one."""
    found: list[Message] = []
    for message, after in zip(messages, [*messages[1:], {}], strict=True):
        if message.get("role") == "tool":
            message = {"tool_call_id": _CALL_ID, **message}
        elif message.get("role") == "assistant" and after.get("role") == "tool" and not message.get("tool_calls"):
            function = {"name": after.get("name") or _TOOL, "arguments": {"rlxprobe": _CALL}}
            message = {**message, "tool_calls": [{"id": _CALL_ID, "type": "function", "function": function}]}
        found.append(message)
    return found
