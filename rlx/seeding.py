"""Random numbers derived from (seed, stream name, step, ...). rlx never reads a global generator.

A `Stream` is an address, not a state: the same address gives the same numbers, in any order of calls and in any
process. So a resumed run equals an uninterrupted one, and a term of a mixture equals the term alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Stream:
    """An address in the space of random numbers: a seed and a path of names and counters."""

    seed: int
    path: tuple[str | int, ...] = ()

    def child(self, *names: str | int) -> Stream:
        """The stream at this path followed by `names`."""
        return Stream(self.seed, self.path + names)

    @property
    def key(self) -> int:
        """A 64-bit hash of this address."""
        text = repr((self.seed, *self.path)).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator at the start of this stream."""
        return np.random.Generator(np.random.Philox(key=self.key))

    def torch(self) -> torch.Generator:
        """A fresh torch CPU generator at the start of this stream."""
        import torch

        return torch.Generator().manual_seed(self.key >> 1)


def uniforms(keys: np.ndarray, positions: np.ndarray | int) -> np.ndarray:
    """One uniform number in [0, 1) for each (key, position), independent of which other numbers are drawn.

    keys: uint64 [B], `Stream.key` of each sequence; positions: int or [B]. Returns float64 [B].
    The splitmix64 finaliser over a Weyl sequence (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195).
    """
    with np.errstate(over="ignore"):
        word = keys.astype(np.uint64) + _GOLDEN * (np.asarray(positions).astype(np.uint64) + np.uint64(1))
        word = (word ^ (word >> np.uint64(30))) * _MIX[0]
        word = (word ^ (word >> np.uint64(27))) * _MIX[1]
        word = word ^ (word >> np.uint64(31))
    numbers: np.ndarray = (word >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return numbers
