"""Caches on disk for later runs: small tensor files, each named by a hash of everything that determines its content.

If several processes need the same file at the same time, one computes it and the others wait; if that one dies, another takes
over. TensorStore stores tensors by name, TokenStore the tokens of texts, so that the jobs of a sweep tokenise their data once.
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
    modules = ("remarks", "turns", "rendering", "conversation", "tokenizer", "cut", "words", "tokens", "pair_tokens")
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
