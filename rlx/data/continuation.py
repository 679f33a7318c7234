"""What stands between two turns of the assistant in a conversation that goes on: the tokens of what others say.

The turns that a policy has sampled stay as they were sampled: they are never written or tokenised again. Only what comes after
one is made here, as the chat template writes it after an answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlx.data.control_tokens import Piece
from rlx.data.rendering import UnsafeExampleError
from rlx.data.sequences import Tokens
from rlx.data.turns import content_of, is_prefilled, unseen
from rlx.errors import DataError

if TYPE_CHECKING:
    from rlx.data.tokens import TextEncoder
    from rlx.task.base import Message, Text

_ANSWER, _CALL = "rlxprobeanswer", "rlxprobecall"  # what the assistant is taken to have said, and the tool that it called
_SPELLED = "rlxprobespelled"  # in place of a special token that the words of others spell
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
    """int64 [T]: what follows a turn of the assistant, up to where its next turn begins.

    Where `said` spells a special token, that is plain text: only the template's own special tokens are control tokens. A text in
    a conversation whose opening was rendered by the template already is taken as rendered too, and read as it is written.
    opening: the conversation up to its first turn. so_far: all messages after it, the assistant's last turn the last of them.
    said: what others say now; a text is one user message, or plain text in a conversation of plain text.
    ended: whether the turn ended with a token that ends generation, so that none is to be put after it.
    remarks: "special_plain" is added to it where `said` spells special tokens that became plain text, and "special_text" where
    they became control tokens, because the tokenizer or the template does not let the two be told apart; "words_unseen" or
    "results_unseen" where the template leaves out messages.
    Raises DataError if the chat template refuses the messages, and for messages in a conversation of plain text.
    """
    messages = encoder._messages(opening)
    if messages is None:
        if not isinstance(said, str):
            raise DataError(
                "a conversation that begins with plain text goes on in plain text, not in messages: let the environment say "
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
            f"the chat template refuses a conversation that goes on with the roles {roles}: {error.said or error.reason}; let "
            "the environment use other roles, or give another template with policy.chat_template=FILE"
        ) from error
    if remarks is not None:
        remarks |= unseen(following, "".join(part for part, _ in pieces))
    return _encode(encoder, pieces, end_text, remarks, ended=ended)


def _encode(encoder: TextEncoder, pieces: Sequence[Piece], end_text: str, remarks: set[str] | None, *, ended: bool) -> Tokens:
    """The tokens of an end of a turn and the text after it; where the turn `ended`, without that end."""
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
    """The words of others, and apart the special tokens that they spell."""
    parts = re.split(f"({encoder.control_tokens.pattern.pattern})", said)
    return [(part, place % 2 == 0) for place, part in enumerate(parts)]


def _turn_pieces(
    encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any], *, calls: bool
) -> tuple[list[Piece], str]:
    """What the template writes after the end of an answer, and that end itself ("" if it writes none).

    The special tokens that the words of others spell are pieces of their own, not meant as control tokens. They are found by
    rendering the conversation with other words in their place; where that does not give the same text, all of it is one piece
    that is not known to be free of them.
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
    """The conversation with an answer of the assistant and what others say after it, up to the next answer."""
    answer: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
    return encoder.template.render(_with_calls((*before, answer, *following)), tools, opens=True)


def _after_answer(
    encoder: TextEncoder, before: Sequence[Message], following: Sequence[Message], tools: Sequence[Any], *, calls: bool
) -> tuple[str, str]:
    """What the template writes after the end of an answer, up to the next one, and that end itself ("" if it writes none)."""
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
