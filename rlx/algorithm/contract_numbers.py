"""Made-up token statistics that the tokens alone decide.

Dimensions: P prompts, G completions, T tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.policy.statistics import unflatten

Key = tuple[bytes, bytes]  # the tokens of a prompt and of one of its completions
STATISTICS = ("token_logprobs", "entropy", "sum_p_squared", "kl_to_reference", "kl_from_reference", "values")


def key_of(prompt: np.ndarray, completion: np.ndarray) -> Key:
    """What a completion of a prompt is found by."""
    return np.asarray(prompt).tobytes(), np.asarray(completion).tobytes()


@dataclass(frozen=True)
class Numbers:
    """The statistics that everybody in the laboratory agrees on, a pure function of the tokens.

    spread: how far the policy lies from its sampler and its reference, in nats a token.
    constant: every log-probability of `constant_of` (policy, reference or sampler) instead.
    drift: by how much the reference's log-probabilities are lower; depth: by how much everybody's are.
    agreeing: does the sampler agree with the policy on every other completion?
    """

    spread: float
    constant: float | None = None
    constant_of: str = "policy"
    drift: float = 0.0
    depth: float = 0.0
    agreeing: bool = False

    def of(self, who: str, name: str, key: Key, length: int) -> np.ndarray:
        """float64 [T] of a completion. who: policy, reference or sampler; name: one of STATISTICS."""
        if name == "token_logprobs" and self.constant is not None and who == self.constant_of:
            return np.full(length, self.constant)
        return _values(self, who, name, key, length)


@lru_cache(maxsize=1 << 15)
def _values(numbers: Numbers, who: str, name: str, key: Key, length: int) -> np.ndarray:
    rng = generator_of(name, key)
    if name != "token_logprobs":
        return rng.uniform(0.05, 0.9, length)
    agrees = numbers.agreeing and generator_of("agrees", key).random() < 0.5
    near = {"policy": 1.0, "reference": 0.0, "sampler": 1.0 if agrees else 0.5}[who] * numbers.spread
    drawn = -0.05 - 2 * rng.random(length) + near * rng.standard_normal(length)
    values = -0.01 - np.abs(drawn + 0.01) - numbers.depth  # thrown back, not cut off: two that differ stay different
    return values - numbers.drift if who == "reference" else values


def generator_of(name: str, key: Key) -> np.random.Generator:
    """Random numbers that the tokens decide, others for each name."""
    digest = hashlib.blake2b(name.encode() + b"|" + key[0] + b"|" + key[1], digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def given(numbers: Numbers, who: str, name: str, sequences: Sequences) -> Tensor:
    """[P, G, T] of sequences, without a gradient."""
    parts = [
        numbers.of(who, name, key_of(prompt, tokens), len(tokens))
        for prompt, group in zip(sequences.prompts, sequences.completions, strict=True)
        for tokens in group
    ]
    return unflatten(torch.from_numpy(np.concatenate([np.zeros(0), *parts])), sequences.completion_mask)
