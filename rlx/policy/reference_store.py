"""Log-probabilities that outlive a run: blocks of consecutive pairs in files that are named by what decides their content.

The name of a file is a hash of the policy and of the tokens. Beside these it carries what decides the rounding of a forward pass
(library version, threads, device, layout), so that a run finds the very bits that it would have computed. Nothing else is in it:
a sweep over beta or a learning rate reads what its first run wrote.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from pathlib import Path

import torch
from torch import Tensor

from rlx.data.layout import ROUNDING
from rlx.data.sequences import Sequences
from rlx.data.tensor_store import TensorStore

_log = logging.getLogger("rlx")


class ReferenceStore:
    """A folder of blocks.

    folder: one policy's, created when first written to; None keeps nothing.
    arithmetic: what decides the rounding.
    """

    def __init__(self, folder: Path | None, arithmetic: str) -> None:
        self.folder = folder
        self._arithmetic = arithmetic.encode()
        self._files = TensorStore(folder, "reference log-probabilities")

    def read(self, block: Sequences) -> Tensor | None:
        """float [N] log-probabilities of the completion tokens of `block`, if they are there and whole."""
        values = (self._files.read(self._name(block)) or {}).get("token_logprobs")
        if values is not None and values.shape != (int(block.completion_lengths.sum()),):
            _log.warning("the cached values in %s are of other tokens; they are computed again and replaced", self.path(block))
            return None
        return values

    def write(self, block: Sequences, values: Tensor) -> None:
        """Keep [N] log-probabilities of `block`."""
        self._files.write(self._name(block), {"token_logprobs": values})

    def claim(self, block: Sequences, *, wait: bool) -> contextlib.AbstractContextManager[bool]:
        """Whether this process is to compute `block`: TensorStore.claim."""
        return self._files.claim(self._name(block), wait=wait)

    def path(self, block: Sequences) -> Path | None:
        """The file of a block."""
        return self._files.path(self._name(block))

    def _name(self, block: Sequences) -> str:
        digest = hashlib.blake2b(self._arithmetic, digest_size=16)
        for prompt, group in zip(block.prompts, block.completions, strict=True):
            for tokens in (prompt, *group):
                digest.update(len(tokens).to_bytes(8, "little") + tokens.tobytes())
        return digest.hexdigest()


def arithmetic_of(device: torch.device, *, layout: str) -> str:
    """What decides the rounding of a forward pass beside its inputs."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads, {device.type} {hardware}, {layout} {ROUNDING}"
