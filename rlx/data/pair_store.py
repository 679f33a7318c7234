"""Caches the pairs that a task parsed from a file, so that a later run with the same file and settings parses nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlx.data.stores import TensorStore
from rlx.task.base import Pair, Text

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger("rlx")
_TEXT, _JSON = -1, -2  # kinds of a side: plain text, JSON; n >= 0: n messages with only role and content
_PLAIN = ["role", "content"]


class PairStore:
    """A folder of cached pairs with notes on their columns; None: keep nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._files = TensorStore(folder, "rows")

    def read(self, name: str) -> tuple[list[list[Pair]], Any] | None:
        """The lists of pairs and the JSON written under a name, 32 hexadecimal digits; None if they are absent."""
        name = _named(name)
        kept = self._files.read(name)
        try:
            return None if kept is None else _unpacked(kept)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            _log.warning("the cached rows in %s are of another form (%s); the data is read again", self._files.path(name), error)
            return None

    def write(self, name: str, sides: Sequence[Sequence[Pair]], notes: Any) -> None:
        """Cache lists of pairs with some JSON. Pairs with values that JSON would not restore exactly are not cached."""
        packed = _packed(sides, notes)
        if packed is not None:
            self._files.write(_named(name), packed)


@cache
def _source() -> str:
    """The source code that packs pairs, which is part of the cache key."""
    return Path(__file__).read_text(encoding="utf-8")


def _named(name: str) -> str:
    """A cache name that includes the version of the packing code."""
    return hashlib.blake2b(f"{name}{_source()}".encode(), digest_size=16).hexdigest()


def _packed(sides: Sequence[Sequence[Pair]], notes: Any) -> Mapping[str, Tensor] | None:
    pieces: list[str] = []
    kinds: list[int] = []
    rest: dict[str, list[Any]] = {"scores": [], "label": [], "tools": [], "source": [], "lacks": []}
    try:
        for pair in chain.from_iterable(sides):
            for said in (pair.prompt, pair.chosen, pair.rejected):
                kinds.append(_add(said, pieces))
            for name, column in rest.items():
                column.append(getattr(pair, name))
        columns = {name: column if any(column) else None for name, column in rest.items()}
        facts = json.dumps([list(map(len, sides)), columns, notes]).encode()
        if not _is_same(map(list, columns["tools"] or ()), json.loads(facts)[1]["tools"] or ()):
            return None
        text = bytearray()
        for piece in pieces:
            text += piece.encode()
    except (TypeError, ValueError):  # a Python value that JSON does not support, or half of a surrogate pair
        return None
    return {
        "text": torch.frombuffer(text or bytearray(1), dtype=torch.uint8),
        "lengths": torch.tensor(list(map(len, pieces)), dtype=torch.int32),
        "kinds": torch.tensor(kinds, dtype=torch.int32),
        "facts": torch.frombuffer(bytearray(facts), dtype=torch.uint8),
    }


def _add(said: Text, pieces: list[str]) -> int:
    """Append a side's texts to the pieces and return its kind."""
    if isinstance(said, str):
        pieces.append(said)
        return _TEXT
    if all(list(message) == _PLAIN and type(message["role"]) is str is type(message["content"]) for message in said):
        for message in said:
            pieces += message.values()
        return len(said)
    text = json.dumps(said, ensure_ascii=False)
    if not _is_same(said, json.loads(text)):
        raise ValueError(said)
    pieces.append(text)
    return _JSON


def _is_same(value: Iterable[Any], again: Iterable[Any]) -> bool:
    """Whether JSON restored a value exactly, including the order of keys."""
    return [repr(part) for part in value] == [repr(part) for part in again]


def _unpacked(kept: Mapping[str, Tensor]) -> tuple[list[list[Pair]], Any]:
    text = str(kept["text"].numpy().data, "utf-8")
    ends = list(accumulate(kept["lengths"].tolist(), initial=0))
    pieces = (text[begin:end] for begin, end in pairwise(ends))
    sizes, columns, notes = json.loads(kept["facts"].numpy().tobytes())
    total = sum(sizes)
    said = _sides(kept["kinds"].tolist(), pieces)
    scores, label = (
        [None] * total if columns[name] is None else [None if pair is None else tuple(pair) for pair in columns[name]]
        for name in ("scores", "label")
    )
    tools = [()] * total if columns["tools"] is None else [tuple(own) for own in columns["tools"]]
    source, lacks = (columns[name] or [""] * total for name in ("source", "lacks"))
    pairs = map(Pair, said, said, said, scores, source, label, tools, lacks)
    return [[next(pairs) for _ in range(size)] for size in sizes], notes


def _sides(kinds: Sequence[int], pieces: Iterator[str]) -> Iterator[Text]:
    roles: dict[str, str] = {}
    for kind in kinds:
        if kind == _TEXT:
            yield next(pieces)
        elif kind == _JSON:
            yield tuple(json.loads(next(pieces)))
        else:
            messages = []
            for _ in range(kind):
                role = next(pieces)
                messages.append({"role": roles.setdefault(role, role), "content": next(pieces)})
            yield tuple(messages)
