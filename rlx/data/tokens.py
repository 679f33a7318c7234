"""Text to tokens: prompt and completion are tokenised together, as one text, and split where the prompt ends."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.data.conversation import ChatTemplate, Written, write_plain
from rlx.data.cut import Cut, Encoded, JoinedCut, begins_twice, cutting_marks, first_stop, middle_lead, without_trailing_special
from rlx.data.rendering import CHAT_TEMPLATES, UnsafeExampleError, template_file, warn_of_unread
from rlx.data.sequences import Tokens
from rlx.data.tokenizer import ControlTokens, tokenizer_text, untrim_offsets
from rlx.data.turns import unseen
from rlx.data.words import WordTokens
from rlx.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rlx.task.base import Message, Text

    Example = tuple[Text, Text, Sequence[Mapping[str, Any]]]  # prompt, completion, tools


@dataclass(frozen=True)
class TextEncoder:
    """How text becomes tokens.

    tokenizer: a transformers tokenizer.
    chat_template: auto = applied to chat messages; always = a plain prompt also becomes one user message; never = chat messages
    are refused; otherwise a file with a template that replaces the tokenizer's.
    max_length: the most tokens of prompt and completion together; longer pairs are dropped. None = the model's positions.
    max_prompt_length: longer prompts lose their beginning. None = whole prompts.
    chat_template_kwargs: variables of the chat template, such as enable_thinking; those that are None are left out.
    model_end_ids: the end-of-generation tokens in the model's generation settings.
    words: tokenises chats word by word; None: the tokenizer does it.
    """

    tokenizer: Any
    chat_template: str = "auto"
    max_length: int | None = None
    max_prompt_length: int | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    model_end_ids: tuple[int, ...] = ()
    words: WordTokens | None = None

    def __post_init__(self) -> None:
        if self.chat_template not in CHAT_TEMPLATES:
            self.tokenizer.chat_template = template_file(self.chat_template)  # checkpoints are saved with it
        untrim_offsets(self.tokenizer)
        warn_of_unread(self.chat_template_kwargs, str(self.tokenizer.chat_template or ""))
        for name, least in (("max_length", 2), ("max_prompt_length", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"policy.{name}={value} leaves no room; use at least {least}, or null for no limit")

    def for_model(self, model: Any) -> TextEncoder:
        """A copy for a model, whose generation settings may add tokens that end completions."""
        given = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        ends = given if isinstance(given, list) else [given]
        return replace(self, model_end_ids=tuple(int(token) for token in ends if token is not None))

    # ---- where completions end -------------------------------------------------------------------------------------------------

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end a completion: the tokenizer's, the model's, and the chat template's end of an answer."""
        own = self.tokenizer.eos_token_id
        known = [token for token in (own, *self.model_end_ids, self.turn_end_id) if token is not None]
        return tuple(dict.fromkeys(int(token) for token in known))

    @cached_property
    def turn_end_id(self) -> int | None:
        """The token with which the chat template closes an answer; None if there is none, or no template."""
        ends = {self.tokenizer.eos_token_id, *self.model_end_ids}
        own = {token: number for token, number in self._special_tokens.items() if number in ends}
        return None if self.applies_plain_chat else self._bare_template.closing_token(own, self._special_tokens)

    @cached_property
    def _special_tokens(self) -> dict[str, int]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def _added(self) -> dict[str, Any]:
        """The text of an added token -> its properties."""
        return {token.content: token for token in self.tokenizer.added_tokens_decoder.values()}

    @cached_property
    def _bare_template(self) -> ChatTemplate:
        return ChatTemplate(
            self.tokenizer, {name: value for name, value in self.chat_template_kwargs.items() if value is not None}
        )

    @cached_property
    def template(self) -> ChatTemplate:
        """Renders conversations as text."""
        spelled = [token for token in self.end_ids if token not in self._hidden_ends]
        ends = tuple(str(token) for token in self.tokenizer.convert_ids_to_tokens(spelled))
        end = self.turn_end_id if self.turn_end_id is not None else self.tokenizer.eos_token_id
        turn_end = "" if end is None else str(self.tokenizer.convert_ids_to_tokens([end])[0])
        return replace(self._bare_template, ends=ends, turn_end=turn_end, special=tuple(self._special_tokens))

    @cached_property
    def _hidden_ends(self) -> frozenset[int]:
        """End tokens that cannot be found by their text, as the same text may be part of other tokens."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return frozenset(token for token in self.end_ids if token not in added or added[token].single_word)

    @property
    def applies_plain_chat(self) -> bool:
        """Whether chat messages are rendered with rlx's own plain template."""
        return self.tokenizer.chat_template is None

    def is_rendered(self, prompt: str) -> bool:
        """Whether a plain prompt was already rendered by a chat template."""
        opening = "" if self.applies_plain_chat else self._bare_template.answer_opening
        return opening != "" and prompt.rstrip().endswith(opening)

    def _adds_special(self, prompt: str) -> bool:
        """Whether the tokenizer adds its special tokens to plain text; not to a prompt that is already rendered with its bos."""
        return not self.is_rendered(prompt) or not prompt.startswith(self._bare_template.bos)

    @cached_property
    def control_tokens(self) -> ControlTokens:
        """Encodes texts in which spelled special tokens are plain text."""
        return ControlTokens(self.tokenizer)

    @cached_property
    def longest_token(self) -> int:
        """The number of characters of the vocabulary's longest token."""
        return max(map(len, self.tokenizer.get_vocab()))

    def identity(self) -> str:
        """Everything that determines the tokens of a text, as text. Length limits are excluded: they select examples later."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        mode = self.chat_template if self.chat_template in CHAT_TEMPLATES else "auto"
        settings = [mode, dict(self.chat_template_kwargs), self.end_ids, type(self.tokenizer).__name__]
        return json.dumps([settings, tokenizer_text(self.tokenizer)], default=str)

    # ---- prompts and examples --------------------------------------------------------------------------------------------------

    def encode_prompt(self, prompt: Text, tools: Sequence[Mapping[str, Any]] = ()) -> Tokens:
        """int64 [T], at least one token: the prompt that sampling continues, cut to its last `max_prompt_length` tokens."""
        return self.encode_prompts([(prompt, tools)])[0]

    def encode_prompts(self, prompts: Sequence[tuple[Text, Sequence[Mapping[str, Any]]]]) -> list[Tokens]:
        """Like `encode_prompt` for each (prompt, tools), tokenised together."""
        texts: dict[bool, dict[int, str]] = {False: {}, True: {}}  # whether the tokenizer adds its special tokens -> row -> text
        for row, (prompt, tools) in enumerate(prompts):
            messages = self._messages(prompt)
            if messages is None:
                texts[self._adds_special(str(prompt))][row] = str(prompt)
            else:
                texts[self.applies_plain_chat][row] = self.template.prompt(messages, tools)
        made: dict[int, Tokens] = {}
        for special, some in texts.items():
            made |= zip(some, (cut.tokens for cut in self._encode_texts(list(some.values()), special=special)), strict=True)
        return [self._shortened(made[row]) for row in range(len(prompts))]

    def _shortened(self, prompt: Tokens) -> Tokens:
        if len(prompt) == 0:
            return self.begin()
        return prompt if self.max_prompt_length is None else prompt[-self.max_prompt_length :]

    def prompt_remarks(self, prompt: Text, tools: Sequence[Mapping[str, Any]] = ()) -> frozenset[str]:
        """The differences between a prompt and its tokens: keys of REMARKS. `encode_prompt` must accept the prompt."""
        messages = self._messages(prompt)
        if messages is None:
            return frozenset({"special_text"} if self._spells_special(str(prompt)) else ())
        opening = self.template.prompt(messages, tools)
        found = self.template.altered(messages) | unseen(messages, opening)
        found |= {"tools_unseen"} if self.template.ignores_tools(messages, tools, opening) else set()
        found |= {"calls_unseen"} if self.template.ignores_calls(messages, tools, opening) else set()
        return frozenset(found)

    def _spells_special(self, prompt: str) -> bool:
        """Whether a plain-text prompt spells special tokens, except a leading bos and those written by the chat template."""
        bare = prompt.removeprefix(getattr(self.tokenizer, "bos_token", None) or "")
        return not self.is_rendered(prompt) and bool(self.control_tokens.pattern.search(bare))

    def encode_written(self, texts: Sequence[tuple[Written, bool]]) -> list[Encoded]:
        """The tokens of the examples that `write` rendered."""
        encoded = [Encoded(np.zeros(0, dtype=np.int64), 0, refused=written.refused) for written, _ in texts]
        for special in (False, True):
            rows = [row for row, (written, adds) in enumerate(texts) if adds == special and written.refused is None]
            some = [texts[row][0] for row in rows]
            cuts, openings = self._cuts(some, special=special), self._openings(some, special=special)
            for place, (one, cut) in enumerate(zip(some, cuts, strict=True)):  # sampling begins the answer after the prompt
                if one.turns and not special and not one.apart and self._begin_of(cut, one.prompt_length)[1]:
                    said = one.remarks & {"no_reasoning"} or {"boundary"}
                    some[place] = replace(one, apart=True, remarks=one.remarks | said)
                    cuts[place] = self._cuts([some[place]], special=False)[0]
            for row, written, cut, (first, *later) in zip(rows, some, cuts, openings, strict=True):
                made = self._chat(written, cut) if written.turns else self._plain(written, cut)
                is_alone = isinstance(cut, JoinedCut) and cut.skipped > 0
                as_cut = not self.tokenizer.is_fast or is_alone or not written.prompt_length or "boundary" in made.remarks
                for begin, place, tokens in () if made.refused else reversed(later):
                    stop, merges = self._begin_of(cut, begin)
                    made = made.with_remark("boundary") if merges else made.with_context(cut.before(place), stop, tokens)
                if not as_cut and not made.refused:
                    made = made.with_context(0 if special else cut.before(first[1]), made.prompt_length, first[2])
                encoded[row] = made
        return encoded

    def _openings(self, written: Sequence[Written], *, special: bool) -> list[list[tuple[int, int, Tokens]]]:
        """For each prompt, and for the text before each later turn: its end, the start of its last part, and that part's tokens.

        These are the tokens that sampling reads: with text after it, a tokenizer may split the prompt differently even if no
        token spans both.
        """
        places: list[list[tuple[int, int]]] = []
        for each in written:
            places.append([(each.prompt_length, 0 if special else self._last_mark(each.text, each.prompt_length))])
            before = each.prompt_length
            for begin, end in each.turns if self.tokenizer.is_fast and not special else ():
                place = self._last_mark(each.text, begin)
                if begin > before <= place:
                    places[-1].append((begin, place))
                before = end
        pairs = list(zip(written, places, strict=True))
        known = list(dict.fromkeys(each.text[place:begin] for each, own in pairs for begin, place in own))
        made = dict(zip(known, self._encode_texts(known, special=special), strict=True))
        return [[(begin, place, made[each.text[place:begin]].tokens) for begin, place in own] for each, own in pairs]

    def _cuts(self, written: Sequence[Written], *, special: bool) -> list[Cut | JoinedCut]:
        """The tokens of each example; common beginnings of prompts, up to a safe split point, are tokenised once."""
        if special or not written:
            return list(self._encode_texts([each.text for each in written], special=special))
        before = [(self._lead or "") if each.apart else "" for each in written]
        ends = [
            each.prompt_length if put else self._last_mark(each.text, each.prompt_length)
            for each, put in zip(written, before, strict=True)
        ]
        heads = [each.text[:end] for each, end in zip(written, ends, strict=True)]
        needed = {head for head, put in zip(heads, before, strict=True) if put}
        often = [head for head, count in Counter(heads).items() if head and (count > 1 or head in needed)]
        shared = {head: place for place, head in enumerate(often)}
        starts = [len(head) if head in shared else 0 for head in heads]
        tails = [put + each.text[start:] for put, each, start in zip(before, written, starts, strict=True)]
        cuts = self._encode_texts([*shared, *tails], special=False)
        rest = zip(heads, starts, before, cuts[len(shared) :], strict=True)
        return [
            JoinedCut(cuts[shared[head]].tokens, start - len(put), cut, cut.before(len(put)) if put else 0) if start else cut
            for head, start, put, cut in rest
        ]

    @cached_property
    def _lead(self) -> str | None:
        """A prefix after which words are tokenised as in the middle of a text; None if none is known."""
        marks = (mark for mark in self._cutting_marks if not self._added[mark].rstrip)
        return middle_lead(self._encode_text, marks) if self.tokenizer.is_fast else None

    def _last_mark(self, text: str, end: int) -> int:
        """The start of the last token before `end` at which a text may be split; 0 without one."""
        return max([0, *(text.rfind(mark, 0, end) for mark in self._cutting_marks)])

    @cached_property
    def _cutting_marks(self) -> tuple[str, ...]:
        """The chat template's special tokens before which a text may be split and tokenised in parts."""
        try:
            opening = self.template.render(({"role": "user", "content": "?"},), opens=True)
        except UnsafeExampleError:
            return ()
        return cutting_marks(self.tokenizer, [token for token in self._special_tokens if token in opening], self._encode_text)

    def begin(self) -> Tokens:
        """int64 [1], the token that predicts the first one if there is no prompt: bos, or eos if there is no bos."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return np.array([token], dtype=np.int64)
        raise DataError(
            "an empty prompt needs a bos or eos token to begin with, and this tokenizer has neither; give the prompt a text"
        )

    def _messages(self, prompt: Text) -> tuple[Message, ...] | None:
        """The prompt as chat messages; None if it stays plain text."""
        if isinstance(prompt, str):
            return ({"role": "user", "content": prompt},) if self.chat_template == "always" else None
        if self.chat_template == "never":
            raise DataError("the prompt is a list of chat messages, but policy.chat_template=never; set it to auto")
        return tuple(prompt)

    def write(self, examples: Sequence[Example]) -> list[tuple[Written, bool]]:
        """Each example as text, and whether the tokenizer adds its special tokens. For plain text, `turns` is empty."""
        written: list[tuple[Written, bool]] = [(Written(), self.applies_plain_chat)] * len(examples)
        chats: dict[int, tuple[tuple[Message, ...], tuple[Message, ...], Sequence[Mapping[str, Any]]]] = {}
        for row, (prompt, completion, tools) in enumerate(examples):
            messages = self._messages(prompt)
            if messages is not None:
                answer = ({"role": "assistant", "content": completion},) if isinstance(completion, str) else tuple(completion)
                chats[row] = (messages, answer, tools)
            elif isinstance(completion, str):
                written[row] = (write_plain(str(prompt), completion), self._adds_special(str(prompt)))
            else:
                raise DataError(
                    "a prompt of plain text needs completions of plain text, not chat messages; give both in one form"
                )
        for row, made in zip(chats, self.template.write_all(list(chats.values())) if chats else (), strict=True):
            written[row] = (made, self.applies_plain_chat)
        return written

    def _plain(self, written: Written, cut: Cut | JoinedCut) -> Encoded:
        """Plain text up to the first end-of-generation token, which is appended if missing."""
        inside, merges = self._begin_of(cut, written.prompt_length)
        tokens, remarks = cut.tokens, written.remarks | ({"boundary"} if merges else set())
        if self._spells_special(written.text[: written.prompt_length]):
            remarks |= {"special_text"}
        ends = np.flatnonzero(np.isin(tokens[inside:], self.end_ids)) if self.end_ids else np.zeros(0, dtype=np.int64)
        if len(ends):
            after = inside + int(ends[0]) + 1
            if str(self.tokenizer.decode(tokens[after:].tolist(), skip_special_tokens=True)).strip():
                remarks |= {"ended_early"}
            tokens = tokens[:after]
        elif self.end_ids:
            end = self.turn_end_id if self.is_rendered(written.text[: written.prompt_length]) else None
            tokens = np.append(tokens, self.end_ids[0] if end is None else end)
        return Encoded(tokens, inside, remarks=remarks)

    def _chat(self, written: Written, cut: Cut | JoinedCut) -> Encoded:
        """A conversation up to the end of its last turn; the text between turns is context."""
        inside, merges = self._begin_of(cut, written.prompt_length)
        ends = [cut.before(end, whole=False) for _, end in written.turns]
        begins = [inside if begin == written.prompt_length else self._begin_of(cut, begin)[0] for begin, _ in written.turns]
        remarks, closed = written.remarks | ({"boundary"} if merges else frozenset()), written.closed
        stops = [first_stop(cut.tokens, self._hidden_ends, begin, end) for begin, end in zip(begins, ends, strict=True)]
        if any(stop not in (None, end) for stop, end in zip(stops[:-1], ends, strict=False)):
            return Encoded(cut.tokens[:0], 0, refused=("ends_within", ""))
        if stops[-1] is not None:
            rest = str(self.tokenizer.decode(cut.tokens[stops[-1] : ends[-1]].tolist(), skip_special_tokens=True))
            remarks |= {"ended_early"} if rest.strip() else frozenset()
            ends[-1], closed = stops[-1], True
        tokens = cut.tokens[: ends[-1]]
        learned = np.zeros(len(tokens) - inside, dtype=bool)
        for begin, end in zip(begins, ends, strict=True):
            learned[begin - inside : end - inside] = True
        if not closed and self.end_ids:
            end = self.end_ids[0] if self.turn_end_id is None else self.turn_end_id
            tokens, learned = np.append(tokens, end), np.append(learned, True)
        return Encoded(tokens, inside, None if learned.all() else learned, remarks)

    def _begin_of(self, cut: Cut | JoinedCut, place: int) -> tuple[int, bool]:
        """The number of tokens before a turn that begins at a position, and whether the next token spans that position.

        A special token that absorbs the white space after it, like Phi 3's `<|assistant|>`, belongs to the text before.
        """
        count, merges = cut.before(place), cut.straddles(place)
        if merges and int(cut.tokens[count]) in self._special_tokens.values():
            return count + 1, False
        return count, merges

    # ---- tokens ----------------------------------------------------------------------------------------------------------------

    def _encode_texts(self, texts: list[str], *, special: bool) -> list[Cut]:
        """The tokens of each text, without the special tokens that close a text, with their positions."""
        if not self.tokenizer.is_fast or not texts:
            slowly = partial(self._slowly, special=special)
            return [Cut(slowly(text), text, slowly=slowly) for text in texts]
        if not special and self.words is not None:
            return [Cut(tokens, text, places) for text, (tokens, places) in zip(texts, self.words.of(texts), strict=True)]
        batch = self.tokenizer(
            texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )  # verbose would warn about long texts in each process; texts that are too long are counted elsewhere
        parts = zip(texts, batch["input_ids"], batch.encodings, strict=True)
        if not special:
            return [Cut(np.array(ids, dtype=np.int64), text, encoding) for text, ids, encoding in parts]
        cuts = []
        for text, ids, encoding in parts:
            added = encoding.special_tokens_mask
            tokens = np.array(without_trailing_special(ids, added), dtype=np.int64)
            leading = next((place for place, is_added in enumerate(added) if not is_added), len(tokens))
            doubled = begins_twice(tokens, leading, self.tokenizer.bos_token_id)
            cuts.append(Cut(tokens[doubled:], text, encoding, leading, doubled))
        return cuts

    def _encode_text(self, text: str) -> Cut:
        return self._encode_texts([text], special=False)[0]

    def _slowly(self, text: str, *, special: bool) -> Tokens:
        """The tokens from a tokenizer that does not report offsets."""
        ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        added = self.tokenizer.get_special_tokens_mask(ids, already_has_special_tokens=True) if special else [0] * len(ids)
        tokens = np.asarray(without_trailing_special(ids, added), dtype=np.int64)
        leading = next((place for place, is_added in enumerate(added) if not is_added), len(tokens))
        return tokens[begins_twice(tokens, leading, self.tokenizer.bos_token_id) :]
