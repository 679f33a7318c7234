"""Tensors that outlive a run: small files, each named by a hash of what decides its content.

Processes that want the same file at once compute it once: one claims it, the others wait for it, and go on if that one dies.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_PATIENCE = 120.0  # seconds that a process waits for another one's file; then it computes the content itself
_LOCK = ".lock"

_log = logging.getLogger("rlx")


@dataclass
class TensorStore:
    """A folder of files. Reading never fails: a file that is absent, torn or altered is None.

    folder: created when first written to; None keeps nothing.
    holds: what the files hold, for a warning.
    """

    folder: Path | None
    holds: str
    _has_complained: bool = field(default=False, init=False)
    _damaged: set[str] = field(default_factory=set, init=False)
    _lock: int | None = field(default=None, init=False)

    def path(self, name: str) -> Path | None:
        """The file of that name, 32 hexadecimal digits."""
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    def read(self, name: str) -> dict[str, Tensor] | None:
        """What was written under `name`, if it is there and whole."""
        path = self.path(name)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
                if (file.metadata() or {}).get("checksum") == _checksum(tensors):
                    return tensors
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        if name not in self._damaged:
            _log.warning("the cached %s in %s are damaged; they are computed again and replaced", self.holds, path)
        self._damaged.add(name)
        return None

    def write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep `tensors`; two processes may write the same name at once, the last one stays."""
        path = self.path(name)
        if path is None or self._has_complained:
            return
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            content = {key: value.cpu().contiguous() for key, value in tensors.items()}
            save_file(content, temporary, metadata={"checksum": _checksum(content)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self._has_complained = True
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            _log.warning("%s cannot be kept in %s (%s); every run computes them itself", self.holds, path.parent, error)

    @contextlib.contextmanager
    def claim(self, name: str, *, wait: bool) -> Iterator[bool]:
        """Whether this process is to compute `name`; False if another one is at it. wait: for that one, though not for ever.

        The claim is a lock on one byte of a file, which the system takes back when its holder dies.
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
        """Open the file of the claims; False where there can be none."""
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


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
