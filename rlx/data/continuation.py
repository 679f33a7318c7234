"""What stands between two turns of the assistant in a conversation that goes on: the tokens of what others say.

The turns that a policy has sampled stay as they were sampled: they are never written or tokenised again. Only what comes after
one is made here, as the chat template writes it after an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlx.data.rendering import UnsafeExampleError
from rlx.data.sequences import Tokens
from rlx.data.turns import content_of, is_prefilled
from rlx.errors import DataError

if TYPE_CHECKING:
    from rlx.data.tokens import TextEncoder
    from rlx.task.base import Message, Text

_ANSWER, _CALL = "rlxprobeanswer", "rlxprobecall"  # what the assistant is taken to have said, and the tool that it called
_CALL_ID = "rlx000001"  # nine letters and digits, as Mistral's template demands


def encode_continuation(
    encoder: TextEncoder,
    opening: Text,
    so_far: Sequence[Message],
    said: str | Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    ended: bool,
) -> Tokens:
    """int64 [T]: what follows a turn of the assistant, up to where its next turn begins.

    opening: the conversation up to its first turn. so_far: all messages after it, the assistant's last turn the last of them.
    said: what others say now; a text is one user message, or plain text in a conversation of plain text.
    ended: whether the turn ended with a token that ends generation, so that none is to be put after it.
    Raises DataError where the chat template refuses the messages, and for messages in a conversation of plain text.
    """
    messages = encoder._messages(opening)
    if messages is None:
        if not isinstance(said, str):
            raise DataError(
                "a conversation that begins with plain text goes on in plain text, not in messages: let the environment say "
                "texts, begin with messages, or set policy.chat_template=always"
            )
        return encoder._encode_texts([said], special=False)[0].tokens
    before = (*messages[: len(messages) - is_prefilled(messages)], *so_far[:-1])
    following = ({"role": "user", "content": said},) if isinstance(said, str) else tuple(said)
    calls = any(message.get("role") == "tool" for message in following)
    try:
        text, end_text = _after_answer(encoder, before, following, tools, calls=calls)
    except UnsafeExampleError as error:
        roles = [message.get("role") for message in (*messages, *so_far, *following)]
        raise DataError(
            f"the chat template refuses a conversation that goes on with the roles {roles}: {error.said or error.reason}; let "
            "the environment use other roles, or give another template with policy.chat_template=FILE"
        ) from error
    cut = encoder._encode_texts([end_text + text], special=False)[0]
    return cut.tokens[cut.before(len(end_text)) :] if ended else cut.tokens


def _after_answer(
    encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any], *, calls: bool
) -> tuple[str, str]:
    """What the template writes after the end of an answer, up to the next one, and that end itself ("" if it writes none)."""
    answer: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
    whole = encoder.template.render(_with_calls((*before, answer, *following)), tools, opens=True)
    place = max(whole.rfind(name) + len(name) if name in whole else -1 for name in (_ANSWER, _CALL))
    if place < 0:
        raise UnsafeExampleError("rewrites", "it leaves out what the assistant said before")
    spoken = content_of(following[0]).strip()
    limit = whole.find(spoken, place) if spoken else -1
    limit = len(whole) if limit < 0 else limit
    found = [(at, end) for end in encoder.template.ends if 0 <= (at := whole.find(end, place)) < limit]
    if not found and calls:
        raise UnsafeExampleError("tool_calls", "it closes a call of a tool with no token that ends generation")
    if not found:
        return whole[place:], ""
    at, end = min(found)
    return whole[at + len(end) :], end


def _with_calls(messages: Sequence[Message]) -> list[Message]:
    """The messages, where an assistant's turn that a tool answers has a call of it; templates demand one."""
    call = {"id": _CALL_ID, "type": "function", "function": {"name": _CALL, "arguments": {}}}
    found: list[Message] = []
    for message, after in zip(messages, [*messages[1:], {}], strict=True):
        if message.get("role") == "tool":
            message = {"tool_call_id": _CALL_ID, **message}
        elif message.get("role") == "assistant" and after.get("role") == "tool" and not message.get("tool_calls"):
            message = {**message, "tool_calls": [call]}
        found.append(message)
    return found
