"""Caches on disk for later runs: small tensor files, each named by a hash of everything that determines its content.

If several processes need the same file at the same time, one computes it and the others wait; if that one dies, another takes
over. TensorStore stores tensors by name; TokenStore the tokens of texts, so that the jobs of a sweep tokenise their data once;
PairStore the pairs parsed from a file, so that a later run with the same file and settings parses nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import marshal
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlx.data.pair_tokens import PairTokens

if TYPE_CHECKING:
    from rlx.data.pair_tokens import Row
    from rlx.data.tokens import TextEncoder
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

from rlx.task.base import Pair, Text

if TYPE_CHECKING:
    from torch import Tensor


_PATIENCE = 120.0  # seconds to wait for another process's file before computing the content here
_LOCK = ".lock"
_SAMPLES = 8  # pairs that are tokenised again when a file of tokens is read, to verify it
_HASHED = 1024  # pairs serialised together for hashing

_log = logging.getLogger("rlx")


@dataclass
class TensorStore:
    """A folder of files. Reading never raises: an absent, incomplete or altered file reads as None.

    folder: created by the first write; None: store nothing.
    holds: a description of the content, for warnings.
    """

    folder: Path | None
    holds: str
    _has_complained: bool = field(default=False, init=False)
    _damaged: set[str] = field(default_factory=set, init=False)
    _lock: int | None = field(default=None, init=False)

    def path(self, name: str) -> Path | None:
        """The path of a file; name: 32 hexadecimal digits."""
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def read(self, name: str) -> dict[str, Tensor] | None:
        """The content written under `name`; None if it is absent or damaged."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is not a mapping
                written = (file.metadata() or {}).get("digest")
                if written == _digest(name, tensors):
                    return tensors
                if written is None:  # from a version of rlx without digests
                    return None
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        if name not in self._damaged:
            _log.warning("the cached %s in %s are damaged; they are computed again and replaced", self.holds, path)
        self._damaged.add(name)
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `tensors` under `name`; if two processes write the same name, the last one wins."""
        path = self.path(name)
        if path is None or self._has_complained:
            return
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            content = {key: value.cpu().contiguous() for key, value in tensors.items()}
            save_file(content, temporary, metadata={"digest": _digest(name, content)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self._has_complained = True
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            _log.warning("%s cannot be cached in %s (%s); every run computes them itself", self.holds, path.parent, error)

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Whether this process should compute `name`; False if another one does. wait: wait for the other, up to a limit.

        The claim is a lock on one byte of a file, which the operating system releases when its holder dies.
        """
        path = self.path(name)
        if path is None or not self._open_lock(path.parent):
            yield True
            return
        import fcntl

        assert self._lock is not None
        place = int(name[:15], 16)
        until = time.monotonic() + _PATIENCE * wait
        while True:
            try:
                fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                break
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= until:
                    yield wait
                    return
                time.sleep(0.02)
            except OSError:  # a file system without locks
                yield True
                return
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, place)

    def _open_lock(self, folder: Path) -> bool:
        """Open the lock file; False if that is impossible."""
        if self._lock is None and not self._has_complained:
            with contextlib.suppress(OSError, ImportError):
                import fcntl  # noqa: F401

                folder.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        return self._lock is not None

    def __del__(self) -> None:
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)


def _digest(name: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of name and content, so that a file under another file's name counts as damaged."""
    digest = hashlib.blake2b(name.encode(), digest_size=16)
    for key in sorted(tensors):
        if tensors[key].numel():
            digest.update(tensors[key].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class TokenStore:
    """A folder of tokenised pairs; None: store nothing."""

    def __init__(self, folder: Path | None) -> None:
        self._files = TensorStore(folder, "tokens")

    @property
    def keeps(self) -> bool:
        """Whether anything is stored."""
        return self._files.folder is not None

    def encode_pairs(self, text: TextEncoder, rows: Sequence[Row], name: str = "") -> PairTokens:
        """Like PairTokens.of(text, rows), but computed by one process and read by later ones. name: the result of `name`."""
        if self._files.folder is None or not rows:
            return PairTokens.of(text, rows)
        name = name or self.name(text, rows)
        with self._files.claim(name, wait=True):
            made = self.read_pairs(name, text, rows)
            if made is None:
                made = PairTokens.of(text, rows)
                self._files.write(name, _packed(made))
        return made

    def name(self, text: TextEncoder, rows: Sequence[Row]) -> str:
        """The name of the tokens of these pairs."""
        rest = (_bytes_of(rows[start : start + _HASHED]) for start in range(0, len(rows), _HASHED))
        return _name("", text, rest)

    def name_of(self, text: TextEncoder, *parts: object) -> str:
        """The name of another result that depends on these parts and on the tokenizer."""
        return _name("json", text, [json.dumps(parts).encode()])

    def read(self, name: str) -> dict[str, Any] | None:
        """The JSON written under a name; None if it is absent or damaged."""
        kept = self._files.read(name)
        made = None if kept is None or "json" not in kept else json.loads(kept["json"].numpy().tobytes())
        return made if isinstance(made, dict) else None

    def write(self, name: str, content: Mapping[str, Any]) -> None:
        """Write JSON under a name."""
        self._files.write(name, {"json": torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)})

    def read_pairs(self, name: str, text: TextEncoder, rows: Sequence[Row]) -> PairTokens | None:
        """The content of `name`; None if it is absent, or if a sample differs from the tokenizer's output."""
        kept = self._files.read(name)
        if kept is None:
            return None
        made = _unpacked(kept) if kept.keys() >= _PARTS else None
        if made is None or len(made) != len(rows) or int(made.lengths.sum()) != len(made.tokens):
            _log.warning("cached tokens in %s belong to other texts; they are computed again", self._files.path(name))
            return None
        sample = np.unique(np.linspace(0, len(rows) - 1, _SAMPLES).astype(int)).tolist()
        if not made.only(sample).equals(PairTokens.of(text, [rows[row] for row in sample])):
            _log.warning("cached tokens in %s belong to another tokenizer; they are computed again", self._files.path(name))
            return None
        return made


def _name(kind: str, text: TextEncoder, content: Iterable[bytes]) -> str:
    import transformers

    digest = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in (transformers.__version__, tokenizers.__version__, _source(), text.identity()):
        digest.update(hashlib.blake2b(part.encode()).digest())
    for block in content:
        digest.update(hashlib.blake2b(block).digest())
    return digest.hexdigest()


def _bytes_of(rows: Any) -> bytes:
    """The rows serialised to bytes, equal in every process."""
    try:
        return marshal.dumps(rows, 2)  # later versions do not serialise equal values equally
    except ValueError:  # an object that is not a built-in Python type
        return json.dumps(rows, default=repr).encode()


@cache
def _source() -> str:
    """The code that decides which tokens a pair has."""
    modules = ("turns", "rendering", "conversation", "tokenizer", "cut", "words", "tokens", "pair_tokens")
    return "".join(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in modules)


_PARTS = {"tokens", "lengths", "learned", "remarks", "refused"}


def _packed(made: PairTokens) -> dict[str, Tensor]:
    refused = bytearray(json.dumps(made.refused).encode())
    return {
        "tokens": torch.from_numpy(made.tokens),
        "lengths": torch.from_numpy(made.lengths),
        "learned": torch.from_numpy(made.learned.astype(np.uint8)),
        "remarks": torch.from_numpy(made.remarks),
        "refused": torch.frombuffer(refused, dtype=torch.uint8),
    }


def _unpacked(kept: dict[str, Tensor]) -> PairTokens:
    tokens, lengths, learned, remarks, refused = (
        kept[name].numpy() for name in ("tokens", "lengths", "learned", "remarks", "refused")
    )
    said = {int(row): (reason, words) for row, (reason, words) in json.loads(refused.tobytes()).items()}
    return PairTokens(tokens, lengths, learned.view(np.bool_), remarks, said)


# The pairs that a task parsed from a file.

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
            return None if kept is None else _unpacked_rows(kept)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            _log.warning("the cached rows in %s are of another form (%s); the data is read again", self._files.path(name), error)
            return None

    def write(self, name: str, sides: Sequence[Sequence[Pair]], notes: Any) -> None:
        """Cache lists of pairs with some JSON. Pairs with values that JSON would not restore exactly are not cached."""
        packed = _packed_rows(sides, notes)
        if packed is not None:
            self._files.write(_named(name), packed)


@cache
def _own_source() -> str:
    """The source code of this file, which packs pairs and is part of the name of a cached file."""
    return Path(__file__).read_text(encoding="utf-8")


def _named(name: str) -> str:
    """A cache name that includes the version of the packing code."""
    return hashlib.blake2b(f"{name}{_own_source()}".encode(), digest_size=16).hexdigest()


def _packed_rows(sides: Sequence[Sequence[Pair]], notes: Any) -> Mapping[str, Tensor] | None:
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


def _unpacked_rows(kept: Mapping[str, Tensor]) -> tuple[list[list[Pair]], Any]:
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
