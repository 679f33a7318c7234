"""Log-probabilities that outlive a run: blocks of consecutive pairs in files that are named by what decides their content.

Processes that want the same block at once compute it once: one claims it, the others wait for it, and go on if that one dies.

The name of a file is a hash of the policy and of the tokens. Beside these it carries what decides the rounding of a forward pass
(library version, threads, device, layout), so that a run finds the very bits that it would have computed. Nothing else is in it:
a sweep over beta or a learning rate reads what its first run wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlx.data.sequences import Sequences

_PATIENCE = 120.0  # seconds that a process waits for another one's block; then it computes the block itself
_LOCK = ".lock"

_log = logging.getLogger("rlx")


@dataclass
class ReferenceStore:
    """A folder of blocks. Reading never fails: a block that is absent, torn or altered is None.

    folder: one policy's, created when first written to; None keeps nothing.
    arithmetic: what decides the rounding.
    """

    folder: Path | None
    arithmetic: str
    _has_complained: bool = field(default=False, init=False)
    _lock: int | None = field(default=None, init=False)

    def read(self, block: Sequences) -> Tensor | None:
        """float [N] log-probabilities of the completion tokens of `block`, if they are there and whole."""
        path = self.path(block)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                values: Tensor = file.get_tensor("token_logprobs")
                whole = (file.metadata() or {}).get("checksum") == _checksum(values)
        except (OSError, SafetensorError, KeyError, ValueError):
            whole = False
        if not whole or values.shape != (int(block.completion_lengths.sum()),):
            _log.warning("the cached reference log-probabilities in %s are damaged; they are computed again and replaced", path)
            return None
        return values

    def write(self, block: Sequences, values: Tensor) -> None:
        """Keep [N] log-probabilities of `block`; two processes may write the same block at once, the last one stays."""
        path = self.path(block)
        if path is None or self._has_complained:
            return
        temporary = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            save_file({"token_logprobs": values.cpu().contiguous()}, temporary, metadata={"checksum": _checksum(values)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            self._has_complained = True
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            _log.warning(
                "reference log-probabilities cannot be kept in %s (%s); every run computes them itself", path.parent, error
            )

    @contextlib.contextmanager
    def claim(self, block: Sequences, *, wait: bool) -> Iterator[bool]:
        """Whether this process is to compute `block`; False if another one is at it. wait: for that one, though not for ever.

        The claim is a lock on one byte of a file, which the system takes back when its holder dies.
        """
        path = self.path(block)
        if path is None or not self._open_lock(path.parent):
            yield True
            return
        import fcntl

        assert self._lock is not None
        place = int(path.stem[:15], 16)
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

    def path(self, block: Sequences) -> Path | None:
        """The file of a block."""
        if self.folder is None:
            return None
        digest = hashlib.blake2b(self.arithmetic.encode(), digest_size=16)
        for prompt, group in zip(block.prompts, block.completions, strict=True):
            for tokens in (prompt, *group):
                digest.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
        return self.folder / f"{digest.hexdigest()}.safetensors"


def arithmetic_of(device: torch.device, *, layout: str) -> str:
    """What decides the rounding of a forward pass beside its inputs."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device.type} {hardware}, {layout}"


def _checksum(values: Tensor) -> str:
    return hashlib.blake2b(values.cpu().contiguous().view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()
