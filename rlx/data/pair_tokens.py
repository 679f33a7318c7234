"""Tokenises pairs, independent of length limits: in parts, to bound memory, and in parallel.

Dimensions: P pairs, N tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from rlx.data.cut import Encoded
from rlx.data.processes import in_processes, num_processes
from rlx.data.remarks import REMARKS
from rlx.data.sequences import Learned, Tokens
from rlx.data.tokens import TextEncoder
from rlx.data.turns import content_of
from rlx.data.words import WordTokens

if TYPE_CHECKING:
    from rlx.data.conversation import Written
    from rlx.task.base import Text

    Row = tuple[Text, Text, Text, Sequence[Mapping[str, Any]]]  # prompt, chosen, rejected, tools

_ROWS, _CHARACTERS = 512, 1_000_000  # limits of a part of the data; a tokenizer needs about 100 bytes per character
_FEW = 4  # up to this many parts are not worth a second tokenizer or process
_NAMES = tuple(sorted(REMARKS))


@dataclass(frozen=True, eq=False)
class PairTokens:
    """The concatenated tokens of P pairs.

    tokens: int32 [N], for each pair its prompt, chosen and rejected completion. lengths: int64 [P, 3], of these parts.
    learned: bool [tokens of all completions], which of them the assistant wrote. remarks: int32 [P], one bit per remark.
    refused: pair -> a key of rlx.data.remarks.REFUSED and a detail; such a pair has no tokens.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    learned: np.ndarray
    remarks: np.ndarray
    refused: Mapping[int, tuple[str, str]]

    def __len__(self) -> int:
        return len(self.lengths)

    def remarks_of(self, row: int) -> tuple[str, ...]:
        """The remarks on a pair, keys of rlx.data.remarks.REMARKS."""
        return tuple(name for place, name in enumerate(_NAMES) if self.remarks[row] >> place & 1)

    @cached_property
    def begins(self) -> np.ndarray:
        """int64 [P], where each pair begins in `tokens`."""
        totals: np.ndarray = self.lengths.sum(axis=1)
        return np.asarray(totals.cumsum() - totals)

    def only(self, rows: Sequence[int], prompt_lengths: np.ndarray | None = None) -> PairTokens:
        """A selection of the pairs. prompt_lengths: int64 [P], how many tokens to keep at the end of each prompt; None: all."""
        takes_all = prompt_lengths is None or np.array_equal(prompt_lengths, self.lengths[:, 0])
        if takes_all and len(rows) == len(self) and list(rows) == list(range(len(self))):
            return self
        lengths = self.lengths.copy()
        if prompt_lengths is not None:
            lengths[:, 0] = prompt_lengths
        ends = (self.begins + self.lengths.sum(axis=1)).tolist()
        totals, completions = lengths.sum(axis=1).tolist(), lengths[:, 1:].sum(axis=1)
        learned_ends, learned_totals = completions.cumsum().tolist(), completions.tolist()
        tokens = [self.tokens[ends[row] - totals[row] : ends[row]] for row in rows]
        learned = [self.learned[learned_ends[row] - learned_totals[row] : learned_ends[row]] for row in rows]
        refused = {place: self.refused[row] for place, row in enumerate(rows) if row in self.refused}
        places = np.asarray(rows, dtype=np.int64)
        return PairTokens(_joined(tokens, np.int32), lengths[places], _joined(learned, np.bool_), self.remarks[places], refused)

    def equals(self, other: PairTokens) -> bool:
        """Whether both have the same content."""
        arrays = ("tokens", "lengths", "learned", "remarks")
        return self.refused == other.refused and all(np.array_equal(getattr(self, name), getattr(other, name)) for name in arrays)

    def has_equal_sides(self) -> np.ndarray:
        """bool [P], whether chosen and rejected have the same tokens."""
        same: np.ndarray = np.equal(self.lengths[:, 1], self.lengths[:, 2])
        for row in np.flatnonzero(same):
            begin, size = self.begins[row] + self.lengths[row, 0], self.lengths[row, 1]
            same[row] = np.array_equal(self.tokens[begin : begin + size], self.tokens[begin + size : begin + 2 * size])
        return same

    def parts(self) -> tuple[tuple[Tokens, ...], tuple[tuple[Tokens, Tokens], ...], tuple[tuple[Learned, Learned], ...] | None]:
        """For each pair the prompt, both completions, and which of their tokens are learned; None if all are."""
        tokens = self.tokens.astype(np.int64)
        places = [*self.lengths.ravel().cumsum().tolist()]
        pieces = [tokens[begin:end] for begin, end in zip([0, *places], places, strict=False)]
        groups = tuple(zip(pieces[1::3], pieces[2::3], strict=True))
        if self.learned.all():
            return tuple(pieces[::3]), groups, None
        ends = self.lengths[:, 1:].ravel().cumsum().tolist()
        masks = [self.learned[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        return tuple(pieces[::3]), groups, tuple(zip(masks[::2], masks[1::2], strict=True))

    @staticmethod
    def of(text: TextEncoder, rows: Iterable[Row]) -> PairTokens:
        """Tokenise pairs; many pairs in several processes, and each distinct word once if the tokenizer allows that."""
        parts = _in_parts(rows)
        made = []
        if isinstance(rows, Sized) and len(rows) > _FEW * _ROWS:
            words = WordTokens.copied(text.tokenizer)
            text = text if words is None else replace(text, words=words)
            made.append(_encoded(text, _write(text, next(parts))))  # the first part fills the caches of `text` for the others
            made += _in_processes(text, parts)
        else:
            made += _in_threads(text, parts)
        begins = np.cumsum([0, *(len(part) for part in made)]).tolist()
        return PairTokens(
            _joined([part.tokens for part in made], np.int32),
            np.concatenate([np.zeros((0, 3), dtype=np.int64), *(part.lengths for part in made)]),
            _joined([part.learned for part in made], np.bool_),
            _joined([part.remarks for part in made], np.int32),
            {begin + row: said for begin, part in zip(begins, made, strict=False) for row, said in part.refused.items()},
        )


def _part(text: TextEncoder, encoded: Sequence[tuple[Encoded, Encoded]]) -> PairTokens:
    """The tokens of some pairs."""
    tokens: list[Tokens] = []
    learned: list[Learned] = []
    lengths, remarks = np.zeros((len(encoded), 3), dtype=np.int64), np.zeros(len(encoded), dtype=np.int32)
    refused: dict[int, tuple[str, str]] = {}
    for row, (chosen, rejected) in enumerate(encoded):
        said = chosen.refused or rejected.refused
        if said is not None:
            refused[row] = said
            continue
        prompt, group, masks = shared_prompt(chosen, rejected, text)
        tokens += [prompt, *group]
        learned += masks
        lengths[row] = len(prompt), len(group[0]), len(group[1])
        remarks[row] = sum(1 << _NAMES.index(name) for name in chosen.remarks | rejected.remarks)
    return PairTokens(_joined(tokens, np.int32), lengths, _joined(learned, np.bool_), remarks, refused)


def _joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if len(parts) else np.zeros(0, dtype=dtype)


def _in_processes(text: TextEncoder, parts: Iterable[list[Row]]) -> Iterable[PairTokens]:
    """The tokens of each part of the data, computed by several processes if possible."""
    if (processes := num_processes()) == 1:
        return _in_threads(text, parts)
    parts = list(parts)
    made = in_processes(lambda part: _encoded(text, _write(text, part)), parts, processes)
    return _in_threads(text, parts) if made is None else made


def _in_threads(text: TextEncoder, parts: Iterable[list[Row]]) -> Iterator[PairTokens]:
    """The tokens of each part of the data: a thread tokenises while this one renders the next part."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenise") as thread:
        waiting = None
        for part in parts:
            written = _write(text, part)
            if waiting is not None:
                yield waiting.result()
            waiting = thread.submit(_encoded, text, written)
        if waiting is not None:
            yield waiting.result()


def _in_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """The pairs in parts that fit in memory."""
    part: list[Row] = []
    size = 0
    for row in rows:
        part.append(row)
        size += sum(_size(side) for side in row[:3]) + _size(row[0])
        if len(part) == _ROWS or size >= _CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


def _size(side: Text) -> int:
    """The approximate number of characters of a prompt or completion."""
    return len(side) if isinstance(side, str) else sum(len(content_of(message)) for message in side)


def _write(text: TextEncoder, part: Sequence[Row]) -> list[list[tuple[Written, bool]]]:
    """Render each pair as text; a pair with two identical sides is rendered once."""
    sides = [(chosen,) if chosen is rejected else (chosen, rejected) for _, chosen, rejected, _ in part]
    examples = [(row[0], side, row[3]) for row, both in zip(part, sides, strict=True) for side in both]
    written = iter(text.write(examples))
    return [list(islice(written, len(both))) for both in sides]


def _encoded(text: TextEncoder, part: Sequence[Sequence[tuple[Written, bool]]]) -> PairTokens:
    """The tokens of rendered pairs."""
    encoded = iter(text.encode_written(list(chain.from_iterable(part))))
    sides = [list(islice(encoded, len(pair))) for pair in part]
    return _part(text, [(pair[0], pair[-1]) for pair in sides])


def shared_prompt(
    chosen: Encoded, rejected: Encoded, text: TextEncoder
) -> tuple[Tokens, tuple[Tokens, Tokens], tuple[Learned, Learned]]:
    """The prompt as far as both sides share it, the tokens that follow it in each side, and which of them are learned.

    A token that spans the end of the prompt in one side is learned there. In the other side, the rest of the prompt after the
    shared part is context, as it is if the prompts differ for another reason (a completion that begins with others' messages).
    """
    most = min(chosen.prompt_length, rejected.prompt_length)
    differs = np.flatnonzero(chosen.tokens[:most] != rejected.tokens[:most])
    end = int(differs[0]) if len(differs) else most
    prompt = chosen.tokens[:end] if end else text.begin()
    return prompt, (chosen.tokens[end:], rejected.tokens[end:]), (_learned(chosen, end), _learned(rejected, end))


def _learned(side: Encoded, end: int) -> Learned:
    """bool [tokens after `end`], which of them are learned; tokens of the side's own prompt are not."""
    learned = np.zeros(len(side.tokens) - end, dtype=bool)
    learned[side.prompt_length - end :] = True if side.learned is None else side.learned
    return learned
