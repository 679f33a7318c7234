"""Renders conversations to text: the prompt, the assistant's turns after it, and the context between them.

The rule: a completion is what the assistant would have generated after the prompt, and ends where generation would end. So the
prompt is the text that sampling continues, each assistant's turn begins where sampling would have started it, and ends with the
first token that ends sampling. Everything between two such turns (a user's question, a tool's result) is context.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rlx.data.rendering import TemplateRenderer, UnsafeExampleError
from rlx.data.turns import (
    calls_of,
    closes_before,
    content_of,
    dropped,
    excluded,
    field_reasoning,
    is_prefilled,
    is_unclosed,
    joined,
    loses,
    reasoning_of,
    refused_transcript,
    said_in,
    special_pattern,
    unseen,
)
from rlx.task.base import ROLES, is_learned

if TYPE_CHECKING:
    from rlx.task.base import Message

_OPENS_REASONING = re.compile(r"<(think|thinking|reasoning)>\s*\Z")


@dataclass(frozen=True)
class Written:
    """An example as text.

    text: prompt and completion. prompt_length: characters of the prompt. turns: (begin, end) of the assistant's turns.
    closed: whether the last turn ends with an end-of-generation token; else one must be added. remarks: keys of REMARKS (see
    rlx.data.remarks), differences from the data. refused: a key of REFUSED and a detail; empty for a safe example.
    apart: the completion must not merge with the prompt: it begins with text that is not in the data, or within a word that the
    prompt cuts, or one token would span both.
    """

    text: str = ""
    prompt_length: int = 0
    turns: tuple[tuple[int, int], ...] = ()
    closed: bool = False
    remarks: frozenset[str] = frozenset()
    refused: tuple[str, str] | None = None
    apart: bool = False


def _opened(prompt: str) -> str:
    """The mark with which a prompt opens reasoning at its end; "" if there is none."""
    found = _OPENS_REASONING.search(prompt)
    return f"<{found[1]}>" if found else ""


def write_plain(prompt: str, completion: str) -> Written:
    """An example of plain text, as one text without turns."""
    opened = _opened(prompt)
    remarks = frozenset({"unclosed"} if opened and opened.replace("<", "</") not in completion else ())
    return Written(f"{prompt}{completion}", len(prompt), remarks=remarks, refused=refused_transcript(prompt, completion))


def _last_answer(messages: Sequence[Message]) -> int:
    """The number of messages up to the last learned one; 0 without one."""
    return max((place for place, message in enumerate(messages, start=1) if is_learned(message)), default=0)


@dataclass(frozen=True)
class ChatTemplate(TemplateRenderer):
    """Renders examples with a chat template.

    ends: the texts of the end-of-generation tokens; turn_end: the one with which the template closes an answer.
    special: the texts of all special tokens.
    """

    ends: tuple[str, ...] = ()
    turn_end: str = ""
    special: tuple[str, ...] = ()

    def written_call(self, name: str, arguments: Mapping[str, Any], tools: Sequence[Any]) -> str:
        """The rendered form of an answer that is a tool call; "" if the template refuses it or leaves it out."""
        asked = ({"role": "user", "content": "?"},)
        call = {"id": "rlxprobe1", "type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        try:
            opening = self.opening(asked, tools)
            whole = self.render((*asked, {"role": "assistant", "content": "", "tool_calls": [call]}), tools)
        except UnsafeExampleError:
            return ""
        if not whole.startswith(opening):
            return ""
        return self._without_end(whole[len(opening) : self._first_end(whole, len(opening))])

    def ignores_tools(self, messages: Sequence[Message], tools: Sequence[Any], opening: str) -> bool:
        """Whether the tools do not change the prompt."""
        return bool(tools) and self.opening(messages) == opening

    def ignores_calls(self, messages: Sequence[Message], tools: Sequence[Any], opening: str) -> bool:
        """Whether tool calls in a prompt do not change it."""
        called = [place for place, message in enumerate(messages) if message.get("tool_calls")]
        return any(self._renders_without_calls(messages, place, tools, opening, self.opening) for place in called)

    def _renders_without_calls(
        self, turns: Sequence[Message], place: int, tools: Sequence[Any], text: str, render: Callable[..., str]
    ) -> bool:
        """Whether the turns are rendered as `text` even without the calls at a place."""
        without = {"content": "", **{name: value for name, value in turns[place].items() if name != "tool_calls"}}
        try:
            return render((*turns[:place], without, *turns[place + 1 :]), tools) == text
        except UnsafeExampleError:  # the template requires a call before a tool's result, so it reads calls
            return False

    def write(self, messages: Sequence[Message], answer: Sequence[Message], tools: Sequence[Any] = ()) -> Written:
        """Render a conversation as prompt and completion, or give the reason why they cannot be separated safely."""
        try:
            return self._write(tuple(messages), tuple(answer), tools, self.opening(messages, tools))
        except UnsafeExampleError as error:
            return Written(refused=(error.reason, error.said))

    def write_all(self, examples: Sequence[tuple[Sequence[Message], Sequence[Message], Sequence[Any]]]) -> list[Written]:
        """Like `write` for each (messages, answer, tools), rendering the common parts of many examples together."""
        try:
            self._render_ahead(
                [
                    (messages, (*messages, *answer[: _last_answer(answer)]), tools)
                    for messages, answer, tools in examples
                    if _last_answer(answer) and is_learned(answer[0]) and not is_prefilled(messages)
                ]
            )
            return [self.write(*example) for example in examples]
        finally:
            self._ahead.clear()

    def _write(self, messages: tuple[Message, ...], answer: tuple[Message, ...], tools: Sequence[Any], opening: str) -> Written:
        remarks = {"tools_unseen"} if self.ignores_tools(messages, tools, opening) else set()
        remarks |= {"calls_unseen"} if self.ignores_calls(messages, tools, opening) else set()
        remarks |= self.altered((*messages, *answer)) | unseen(messages, opening) | excluded((*messages, *answer))
        last = _last_answer(answer)
        if last == 0:
            raise UnsafeExampleError("no_answer")
        if last < len(answer) and answer[-1].get("role") != "assistant":
            remarks.add("trailing")
        begins, turns = len(messages), (*messages, *answer[:last])
        answers_at_once = is_learned(answer[0])
        if answers_at_once and is_prefilled(messages):
            begins, turns = begins - 1, (*messages[:-1], joined(messages[-1], answer[0]), *answer[1:last])
        places = [place for place in range(begins, len(turns)) if is_learned(turns[place])]
        whole, marks = self._rendered(turns, tools, opens=False, continues=False, marked=self.marks_generation)
        if not answers_at_once:  # messages of others, or answers that are not learned, come first: they are context
            opening = self._without_last_end(self.render(messages, tools), whole)
        for place in places:
            self._require_calls(turns, place, tools, whole)
        remarks |= unseen((turn for turn in turns[begins:] if not is_learned(turn)), whole)
        own = {place: turns[place] for place in places} | ({places[0]: answer[0]} if answers_at_once else {})
        if any(self._first_end(said_in(own[place]), 0) is not None for place in places[:-1]):
            raise UnsafeExampleError("ends_within")
        if marks and whole.startswith(opening):
            marks = self._learned_marks(marks, turns, begins, tools, whole)
            opened = [self.render(turns[:place], tools, opens=True) for place in places[answers_at_once:]]
            starts = [len(opening), *(len(text) for text in opened if whole.startswith(text))]  # some mark the opening too
            spans = [
                (max(begin, *(start for start in starts if start <= end)), end) for begin, end in marks if end > len(opening)
            ]
            said = _opened(opening) + "".join(whole[begin:end] for begin, end in spans)
            remarks |= set().union(*(dropped(self._until_end(message), said) for message in own.values()))
            return self._marked(whole, opening, spans, remarks)
        return self._by_prefixes(turns, own, tools, whole, opening, remarks, answers_at_once=answers_at_once)

    def _without_last_end(self, text: str, whole: str) -> str:
        """A conversation's beginning without the token that templates like Phi 3's write after any last message."""
        if whole.startswith(text):
            return text
        return next((shorter for end in self.ends if whole.startswith(shorter := text.removesuffix(end))), text)

    def _learned_marks(
        self, marks: list[tuple[int, int]], turns: tuple[Message, ...], begins: int, tools: Sequence[Any], whole: str
    ) -> list[tuple[int, int]]:
        """The marks without those of answers that are not learned."""
        for place in range(begins, len(turns)):
            if turns[place].get("role") == "assistant" and not is_learned(turns[place]):
                before, after = self.render(turns[:place], tools), self.render(turns[: place + 1], tools)
                if not whole.startswith(before) or not whole.startswith(after):
                    raise UnsafeExampleError("rewrites")
                marks = [(begin, end) for begin, end in marks if end <= len(before) or begin >= len(after)]
        return marks

    def _marked(self, whole: str, opening: str, spans: list[tuple[int, int]], remarks: set[str]) -> Written:
        """The turns that the template itself marks, each with the end token that may follow its mark."""
        if not spans:
            raise UnsafeExampleError("no_answer")
        turns, closed = [], False
        for begin, end in spans:
            stop = self._first_end(whole, begin)
            closed = (stop is not None and stop <= end) or any(whole.startswith(mark, end) for mark in self.ends)
            if closed and stop is not None and whole[stop:end].strip():
                remarks.add("ended_early")
            turns.append((begin, stop if closed and stop is not None else end))
        return Written(whole, len(opening), tuple(turns), closed, frozenset(remarks))

    def _by_prefixes(
        self,
        turns: tuple[Message, ...],
        own: Mapping[int, Message],
        tools: Sequence[Any],
        whole: str,
        opening: str,
        remarks: set[str],
        *,
        answers_at_once: bool,
    ) -> Written:
        """Locate turns: each begins where the conversation before it, with an answer opened, ends; that text must be a prefix.

        own: place -> the assistant's message there, without the part that the prompt contains.
        """
        spans: list[tuple[int, int]] = []
        closed, places = False, list(own)
        for place, given in own.items():
            message, continues = self._until_end(given), turns[place] is not given
            if self._goes_on(content_of(given)) or self._first_end(calls_of(given), 0) is not None:
                remarks.add("ended_early")
            at_once = answers_at_once and place == places[0]
            before = opening if at_once else self.render(turns[:place], tools, opens=True)
            is_last = place == places[-1]
            if not whole.startswith(before) or (not spans and not whole.startswith(opening)):
                if len(places) > 1 or not at_once:
                    raise UnsafeExampleError("rewrites")
                return self._as_it_stands(message, before, remarks, continues=continues)
            alone = whole if is_last else self.render(turns[: place + 1], tools)
            end, closed = self._end_of_turn(whole, alone, len(before), is_last=is_last)
            said = whole[len(before) : end]
            with_opened = said if continues else _opened(before) + said
            goes_on = not continues and closes_before(content_of(message), with_opened)
            is_only = is_last and len(places) == 1 and at_once and self._writable(message, before)
            if is_only and (goes_on or loses(message, with_opened)):
                return self._as_it_stands(message, before, remarks, continues=continues)
            if goes_on:
                raise UnsafeExampleError("rewrites")
            if not is_last:
                self._require_same(message, said, alone, len(before))
            remarks |= dropped(message, with_opened)
            spans.append((len(before), end))
        opened = _OPENS_REASONING.search(opening)
        if opened and f"</{opened[1]}>" not in whole[len(opening) : spans[0][1]]:
            remarks.add("unclosed")
        elif opened and answers_at_once and not reasoning_of(first := own[places[0]]) and "</" not in content_of(first):
            remarks.add("no_reasoning")
        if not closed and own[places[-1]].get("tool_calls"):
            whole = whole[: spans[-1][1]] + self._call_end
            spans[-1], closed = (spans[-1][0], len(whole)), self._call_end != ""
        return Written(whole, len(opening), tuple(spans), closed, frozenset(remarks))

    @cached_property
    def _call_end(self) -> str:
        """The end-of-generation token between a tool call and the tool's result, where the call is written without one."""
        call = {"id": "rlxprobe1", "type": "function", "function": {"name": "rlx_probe", "arguments": {}}}
        turns = ({"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]})
        result = {"role": "tool", "content": "rlx_probe", "name": "rlx_probe", "tool_call_id": "rlxprobe1"}
        try:
            called, whole = self.render(turns).rstrip(), self.render((*turns, result))
        except UnsafeExampleError:
            return ""
        return next((mark for mark in self.ends if whole.startswith(called + mark)), "")

    def _end_of_turn(self, whole: str, alone: str, begin: int, *, is_last: bool) -> tuple[int, bool]:
        """Where the turn that begins at `begin` ends in the whole, and whether an end-of-generation token closes it.

        alone: the conversation up to this turn. In some templates, such as GLM's, the token that ends it opens the next message.
        """
        end = self._first_end(whole, begin)
        most = len(alone) if whole.startswith(alone) else len(whole)
        most += max((len(mark) for mark in self.ends if whole.startswith(mark, most)), default=0)
        if end is not None and end <= most:
            return end, True
        if not is_last and not whole.startswith(alone):
            raise UnsafeExampleError("rewrites")
        return len(whole[:most].rstrip()), False

    def _without_end(self, text: str) -> str:
        """The text without the end-of-generation token that closes it."""
        return next((text.removesuffix(mark) for mark in self.ends if text.endswith(mark)), text)

    def _first_end(self, text: str, begin: int) -> int | None:
        """The position after the first end-of-generation token; None without one."""
        found = [(place, place + len(end)) for end in self.ends if (place := text.find(end, begin)) >= 0]
        return min(found)[1] if found else None

    def _goes_on(self, content: str) -> bool:
        """Whether a message has text after an end-of-generation token."""
        end = self._first_end(content, 0)
        return end is not None and bool(content[end:].strip())

    def _until_end(self, message: Message) -> Message:
        """The message with its content cut after the first end-of-generation token."""
        end = self._first_end(content_of(message), 0)
        return message if end is None else {**message, "content": content_of(message)[:end]}

    def altered(self, messages: Sequence[Message]) -> set[str]:
        """The remarks on messages that are not rendered, or not tokenised, exactly as given."""
        found = set()
        if self._special.search("\n".join(content_of(message) for message in messages if not is_learned(message))):
            found.add("special_text")
        if any(self._as_written(message).get("tool_calls") != message.get("tool_calls") for message in messages):
            found.add("arguments")
        if any(message.get("role") not in ROLES for message in messages):
            found.add("other_roles")
        return found

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """A pattern of the texts that the tokenizer reads as special tokens."""
        return special_pattern(self.special)

    def _require_same(self, message: Message, said: str, alone: str, begin: int) -> None:
        """Refuse an earlier turn that is rendered differently than it was generated, except for an empty reasoning block."""
        end = self._first_end(alone, begin)
        generated = alone[begin:end]
        if end is None:  # the token that ends the turn opens the next message
            said, generated = self._without_end(said).rstrip(), generated.rstrip()
        if said != generated and not (generated.endswith(said) and not reasoning_of(message) and not loses(message, said)):
            raise UnsafeExampleError("rewrites")

    def _require_calls(self, turns: tuple[Message, ...], place: int, tools: Sequence[Any], whole: str) -> None:
        """Refuse tool calls that the template does not render."""
        if not turns[place].get("tool_calls"):
            return
        if self._renders_without_calls(turns, place, tools, whole, self.render):
            raise UnsafeExampleError("tool_calls")

    def _writable(self, message: Message, before: str) -> bool:
        """Whether the parts of an answer that the template leaves out can be written unchanged after the prompt."""
        return not message.get("tool_calls") and (not field_reasoning(message) or self._knows_reasoning(before))

    def _knows_reasoning(self, before: str) -> bool:
        return bool(_OPENS_REASONING.search(before)) or "</think>" in self.source()

    def _as_it_stands(self, message: Message, before: str, remarks: set[str], *, continues: bool) -> Written:
        """The answer as in the data, for answers of which the template would leave something out.

        An answer without reasoning after a prompt that opens reasoning gets an empty reasoning block, as generation would have
        written. continues: the prompt ends with words of the data, which the answer continues unchanged.
        """
        if message.get("tool_calls"):
            raise UnsafeExampleError("rewrites")
        own, reasoning = content_of(message), field_reasoning(message)
        if reasoning:
            if not self._knows_reasoning(before):
                raise UnsafeExampleError("rewrites")
            own = f"<think>\n{reasoning.strip()}\n</think>\n\n{own}"
        opened = _OPENS_REASONING.search(before)
        reasons = opened is not None and own.lstrip().startswith(f"<{opened[1]}>")
        begins_apart = False
        if opened and reasons:
            rest, spaces = own.lstrip()[len(opened[1]) + 2 :], before[opened.end(1) + 1 :]
            own = rest.removeprefix(spaces) if rest.startswith(spaces) else rest.lstrip()
            begins_apart = own[:1].isspace()
        lead, tail = self._around_answer
        if not opened or f"</{opened[1]}>" in own:
            remarks |= {"rewritten"} | ({"unclosed"} if is_unclosed(own) else set())
        elif continues or reasons:
            remarks.add("unclosed")
        else:
            remarks.add("no_reasoning")
            breaks = "\n\n".removeprefix(before[opened.end(1) + 1 :])
            lead = f"{breaks}</{opened[1]}>\n\n{lead}"
        text = before + lead + own + tail + self.turn_end
        end = self._first_end(text, len(before))
        turns = ((len(before), len(text) if end is None else end),)
        return Written(
            text, len(before), turns, end is not None, frozenset(remarks), apart="no_reasoning" in remarks or begins_apart
        )

    @cached_property
    def _around_answer(self) -> tuple[str, str]:
        """The white space that the template puts before and after an answer, within its turn."""
        prompt, answer = ({"role": "user", "content": "rlx_probe"},), {"role": "assistant", "content": "rlx_answer"}
        try:
            opening, whole = self.render(prompt, opens=True), self.render((*prompt, answer))
        except UnsafeExampleError:
            return "", ""
        turn = whole[len(opening) :] if whole.startswith(opening) else ""
        lead, found, rest = turn.partition("rlx_answer")
        tail = rest.partition(self.turn_end)[0] if self.turn_end and self.turn_end in rest else ""
        return (lead, tail) if found and not lead.strip() and not tail.strip() else ("", "")
