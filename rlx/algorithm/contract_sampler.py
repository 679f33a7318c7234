"""Completions and pairs out of a hat, in the shapes that laws are tried on.

Dimensions: B completions, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from rlx.algorithm.contract_numbers import Numbers, generator_of, given, key_of
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.policy.base import Policy
from rlx.rollout.decoding import Completions
from rlx.rollout.sampler import Draw, Sampler

SHAPES = ("usual", "one token", "empty", "some empty")


@dataclass(frozen=True, kw_only=True)
class ScriptedSampler(Sampler):
    """Completions out of a hat: random tokens of a few lengths, a quarter of them truncated, in no need of a forward.

    numbers: what the sampling log-probabilities are; None asks the policy. shape: one of SHAPES.
    turned: the completions of every second prompt come in the opposite order.
    """

    numbers: Numbers | None
    shape: str = "usual"
    turned: bool = False

    @staticmethod
    def of(sampler: Sampler, numbers: Numbers | None, *, shape: str = "usual") -> ScriptedSampler:
        """With the decoding settings of a real sampler."""
        names = ("temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens")
        return ScriptedSampler(**{name: getattr(sampler, name) for name in names}, numbers=numbers, shape=shape)

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """Tokens that the completion's own random address decides; a greedy completion is one of them."""
        keys = draw.keys.reshape(-1, draw.group_size).copy()
        if self.turned:
            keys[1::2] = keys[1::2, ::-1]
        prompts = tuple(prompt.tobytes() for prompt in draw.prompts)
        end = (policy.eos_token_ids[:1] or (0,))[0]
        script = _script(prompts, keys.tobytes(), tuple(draw.limits.tolist()), end, self.shape, self.numbers)
        made = Completions.empty(len(script.finished), script.sequences.width)
        made.tokens[:] = script.sequences.completion_tokens[:, 0].numpy()
        made.lengths[:], made.finished[:] = script.sequences.completion_lengths[:, 0].numpy(), script.finished
        if script.logprobs is None:
            with torch.no_grad():
                made.logprobs[:] = policy.token_logprobs(script.sequences, temperature=draw.temperature)[:, 0].cpu().numpy()
        else:
            made.logprobs[:] = script.logprobs / draw.temperature
        return made

    def prepare(self, policy: Policy) -> None:
        """Nothing to prepare."""

    @property
    def in_process(self) -> Sampler:
        """This one."""
        return self


@dataclass(frozen=True, eq=False)
class _Script:
    """B completions, each with its prompt before it; logprobs float64 [B, T], or None where the policy is asked."""

    sequences: Sequences
    finished: list[bool]
    logprobs: np.ndarray | None


@lru_cache(maxsize=64)
def _script(
    prompts: tuple[bytes, ...], keys: bytes, limits: tuple[int, ...], end: int, shape: str, numbers: Numbers | None
) -> _Script:
    """What is sampled there, which laws that draw the same again and again need not make again."""
    places = [np.frombuffer(prompt, dtype=np.int64).copy() for prompt in prompts]
    letters = np.unique(np.concatenate(places))
    letters = letters[letters != end] if len(letters) > 1 else letters
    addresses = np.frombuffer(keys, dtype=np.uint64).reshape(len(places), -1)
    rows: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = []
    finished: list[bool] = []
    for prompt, limit, group in zip(places, limits, addresses.tolist(), strict=True):
        most = min(limit, 6)
        for key in group:
            of_prompt = generator_of("prompt", (prompt.tobytes(), b""))
            equal = of_prompt.random() < 0.25  # a group without signal
            rng = of_prompt if equal else np.random.Generator(np.random.Philox(key=key))
            body = letters[rng.integers(0, len(letters), size=int(rng.integers(0, most + 1)))]
            rows.append((prompt, (_cut(np.append(body, end)[:most].astype(np.int64), len(rows), shape),)))
            finished.append(len(body) < most)
    sequences = Sequences(tuple(prompt for prompt, _ in rows), tuple(group for _, group in rows))
    logprobs = None if numbers is None else given(numbers, "sampler", "token_logprobs", sequences)[:, 0].numpy()
    return _Script(sequences, finished, logprobs)


@lru_cache(maxsize=8)
def shaped_pairs(pairs: TokenizedPairs, shape: str) -> TokenizedPairs:
    """Tokenised pairs with their completions in one of SHAPES."""
    rows = enumerate(zip(pairs.sequences.prompts, pairs.sequences.completions, strict=True))
    groups = tuple(tuple(_shaped(prompt, tokens, row, shape) for tokens in group) for row, (prompt, group) in rows)
    return replace(pairs, sequences=Sequences(pairs.sequences.prompts, groups))


def _shaped(prompt: np.ndarray, tokens: np.ndarray, row: int, shape: str) -> np.ndarray:
    """A task's own completion in one of SHAPES; usual: of at most six tokens more, so that lengths differ on any task."""
    if shape != "usual" or len(tokens) == 0:
        return _cut(tokens, row, shape)
    rng = generator_of("length", key_of(prompt, tokens))
    return np.concatenate([tokens[:-1], rng.choice(prompt, size=int(rng.integers(0, 7))), tokens[-1:]])


def _cut(tokens: np.ndarray, row: int, shape: str) -> np.ndarray:
    """A completion in one of SHAPES."""
    if shape == "one token":
        return tokens[-1:]
    return tokens[:0] if shape == "empty" or (shape == "some empty" and row % 3 == 0) else tokens
