"""Stand-ins for policy, reference, sampler and task, whose numbers depend only on the tokens.

The parameters of the stand-in policy are its token statistics (log-probabilities, entropy, values), so the gradient of a loss at
each token can be read directly, exact up to rounding in float64, and a step takes milliseconds.
Dimensions: P prompts, G completions, T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from rlx.check.batch import Key, key_of, keys_of, recast
from rlx.data.sequences import Sequences
from rlx.data.tokenized import PairTokenizer, TokenizedPairs
from rlx.policy.base import Policy
from rlx.policy.reference import Reference
from rlx.policy.statistics import NO_STATISTICS, TokenStatistics, unflatten
from rlx.rollout.decoding.loop import Completions
from rlx.rollout.sampler import Draw, Sampler

SHORT, LONG = 8, 64  # tokens of every completion in these shapes
EXTENDED = {"short": SHORT, "long": LONG}
UNEVEN = {"even": (4, 4), "uneven": (2, 6)}  # tokens of the last two completions of a draw; the others have 4
SHAPES = ("usual", "one token", "empty", "some empty", "alike", *EXTENDED, *UNEVEN)  # of completions
ITEM = np.dtype(np.int64).itemsize  # bytes of a token in a key
STATISTICS = ("token_logprobs", "entropy", "sum_p_squared", "kl_to_reference", "kl_from_reference", "values")


@dataclass(frozen=True)
class Numbers:
    """The token statistics of policy, reference and sampler, a pure function of the tokens.

    spread: distance of the policy from its sampler and its reference, in nats a token; at 0 a KL between them is 0.
    constant: replaces every log-probability of `constant_of` (policy, reference, sampler or everybody); with `mixed`, only in
    about half of the completions.
    drift: nats by which the reference's log-probabilities are lower; depth: nats by which all log-probabilities are lower.
    agreeing: whether the sampler's log-probabilities equal the policy's in about half of the completions.
    by_prefix: whether a token's statistics depend only on the tokens up to it, wherever the prompt ends (as between turns).
    """

    spread: float
    constant: float | None = None
    constant_of: str = "policy"
    drift: float = 0.0
    depth: float = 0.0
    agreeing: bool = False
    mixed: bool = False
    by_prefix: bool = False

    def of(self, who: str, name: str, key: Key, length: int) -> np.ndarray:
        """Return a statistic of a completion, float64 [T]. who: policy, reference or sampler; name: one of STATISTICS."""
        if name == "token_logprobs" and self.constant is not None and self.constant_of in (who, "everybody"):
            set_here = not self.mixed or generator_of("mixed", key).random() < 0.5
        else:
            set_here = False
        return np.full(length, self.constant) if set_here else _values(self, who, name, key, length)


@lru_cache(maxsize=1 << 15)
def _values(numbers: Numbers, who: str, name: str, key: Key, length: int) -> np.ndarray:
    if numbers.by_prefix:
        ends = range(len(key[1]) - 8 * (length - 1), len(key[1]) + 1, 8)  # of each token, in bytes
        rngs = (generator_of(name, (key[0] + key[1][:end], b"")) for end in ends)
        uniform, normal = np.array([(rng.random(), rng.standard_normal()) for rng in rngs]).reshape(-1, 2).T
    else:
        rng = generator_of(name, key)
        uniform = rng.random(length)
        normal = rng.standard_normal(length) if name == "token_logprobs" else uniform
    if name.startswith("kl_") and not (numbers.spread or numbers.drift):
        return np.zeros(length)
    if name != "token_logprobs":
        return np.asarray(0.05 + 0.85 * uniform)
    agrees = numbers.agreeing and generator_of("agrees", key).random() < 0.5
    near = {"policy": 1.0, "reference": 0.0, "sampler": 1.0 if agrees else 0.5}[who] * numbers.spread
    drawn = -0.05 - 2 * uniform + near * normal
    values = -0.01 - np.abs(drawn + 0.01) - numbers.depth  # reflected, not clamped: different values stay different
    values = values - numbers.drift if who == "reference" else values
    return np.asarray(values, dtype=np.float32).astype(np.float64)


def generator_of(name: str, key: Key) -> np.random.Generator:
    """Return a random generator that is determined by the name and the tokens."""
    digest = hashlib.blake2b(name.encode() + b"|" + key[0] + b"|" + key[1], digest_size=8).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def given(numbers: Numbers, who: str, name: str, sequences: Sequences, temperature: float = 1.0) -> Tensor:
    """Return [P, G, T] a statistic of sequences, divided by a temperature, without a gradient.

    It is rounded to float32, as a sampler's log-probabilities are, so that the difference of equal values is exactly 0.
    """
    parts = [numbers.of(who, name, key, len(key[1]) // ITEM) for key in keys_of(sequences)]
    values = (np.concatenate([np.zeros(0), *parts]) / temperature).astype(np.float32).astype(np.float64)
    return unflatten(torch.from_numpy(values), sequences.token_mask) * sequences.completion_mask


@dataclass(frozen=True, kw_only=True)
class SyntheticSampler(Sampler):
    """A sampler that runs no model and needs no preparation."""

    def prepare(self, policy: Policy) -> None:
        """Do nothing: there is nothing to prepare."""

    @property
    def in_process(self) -> Sampler:
        """The sampler itself: it starts no server."""
        return self


@dataclass(frozen=True, kw_only=True)
class ScriptedSampler(SyntheticSampler):
    """Returns random completions of a few lengths, a quarter of them truncated, without a forward pass.

    numbers: give the sampling log-probabilities; with None, the policy computes them. shape: one of SHAPES. "usual": up to 6
    tokens; "alike": all prompts but the first get the same completions of equal length; "short" and "long": SHORT and LONG tokens
    that begin alike; "even" and "uneven": the same total number of tokens, see UNEVEN.
    turned: whether the completions of every second prompt come in the opposite order. wider: additional columns of padding.
    calls: a list to which every draw is appended with its completions; None: nothing is recorded.
    """

    numbers: Numbers | None
    shape: str = "usual"
    turned: bool = False
    wider: int = 0
    calls: list[tuple[Draw, Completions]] | None = None

    @staticmethod
    def of(sampler: Sampler, numbers: Numbers | None, *, shape: str = "usual") -> ScriptedSampler:
        """Return a sampler with the decoding settings of a real one."""
        names = ("temperature", "top_k", "top_p", "min_p", "stop", "max_new_tokens")
        return ScriptedSampler(**{name: getattr(sampler, name) for name in names}, numbers=numbers, shape=shape)

    def complete(self, policy: Policy, draw: Draw) -> Completions:
        """Return completions whose tokens are determined by the completions' random keys, in greedy decoding too."""
        keys = draw.keys.reshape(-1, draw.group_size).copy()
        if self.turned:
            keys[1::2] = keys[1::2, ::-1]
        prompts = tuple(prompt.tobytes() for prompt in draw.prompts)
        end = (policy.eos_token_ids[:1] or (0,))[0]
        script = _script(prompts, keys.tobytes(), tuple(draw.limits.tolist()), end, self.shape, self.numbers)
        width = script.sequences.width
        made = Completions.empty(len(script.finished), width + self.wider)
        made.tokens[:, :width] = script.sequences.completion_tokens[:, 0].numpy()
        made.lengths[:], made.finished[:] = script.sequences.completion_lengths[:, 0].numpy(), script.finished
        if script.logprobs is None:
            with torch.no_grad():
                found = policy.token_logprobs(script.sequences, temperature=draw.temperature)
                made.logprobs[:, : found.shape[-1]] = found[:, 0].cpu().numpy()
        else:
            made.logprobs[:, :width] = script.logprobs / draw.temperature
        if self.calls is not None:
            self.calls.append((draw, made))
        return made

    def sampled(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (prompt, completion) of the recorded calls, int64 tokens."""
        for draw, made in self.calls or ():
            for row, length in enumerate(made.lengths.tolist()):
                yield draw.prompts[row // draw.group_size], made.tokens[row, :length]


def recording(sampler: Sampler) -> ScriptedSampler:
    """Return a scripted sampler that records its calls from now on."""
    assert isinstance(sampler, ScriptedSampler)
    return replace(sampler, calls=[])


@dataclass(frozen=True, eq=False)
class _Script:
    """B completions, each with its prompt; logprobs: float64 [B, T], or None if the policy computes them."""

    sequences: Sequences
    finished: list[bool]
    logprobs: np.ndarray | None


@lru_cache(maxsize=256)
def _script(
    prompts: tuple[bytes, ...], keys: bytes, limits: tuple[int, ...], end: int, shape: str, numbers: Numbers | None
) -> _Script:
    """Return the completions for these prompts and random keys; cached, since many laws draw the same ones."""
    places = [np.frombuffer(prompt, dtype=np.int64).copy() for prompt in prompts]
    letters = np.unique(np.concatenate(places))
    letters = letters[letters != end] if len(letters) > 1 else letters
    addresses = np.frombuffer(keys, dtype=np.uint64).reshape(len(places), -1)
    rows: list[tuple[np.ndarray, tuple[np.ndarray, ...]]] = []
    finished: list[bool] = []
    for number, (prompt, limit, group) in enumerate(zip(places, limits, addresses.tolist(), strict=True)):
        most = min(limit, 6)
        for column, key in enumerate(group):
            if shape == "alike" or shape in EXTENDED:
                name = f"{shape == 'alike' and number > 0} {key if shape != 'alike' else column}"
                body = letters[generator_of(name, (b"", b"")).integers(0, len(letters), size=SHORT - 1)]
                tokens = np.append(np.resize(body, EXTENDED.get(shape, most) - 1), end)
                rows.append((prompt, (tokens.astype(np.int64),)))
                finished.append(True)
                continue
            if shape in UNEVEN:
                body = letters[generator_of(f"{key}", (b"", b"")).integers(0, len(letters), size=SHORT)]
                size = (*(4,) * (addresses.size - 2), *UNEVEN[shape])[len(rows)] if addresses.size > 1 else 4
                rows.append((prompt, (np.append(body[: size - 1], end).astype(np.int64),)))
                finished.append(True)
                continue
            of_prompt = generator_of("prompt", (prompt.tobytes(), b""))
            equal = of_prompt.random() < 0.25  # a group of equal completions
            rng = of_prompt if equal else np.random.Generator(np.random.Philox(key=key))
            body = letters[rng.integers(0, len(letters), size=int(rng.integers(0, most + 1)))]
            rows.append((prompt, (_cut(np.append(body, end)[:most].astype(np.int64), len(rows), shape),)))
            finished.append(len(body) < most)
    sequences = Sequences(tuple(prompt for prompt, _ in rows), tuple(group for _, group in rows))
    logprobs = None if numbers is None else given(numbers, "sampler", "token_logprobs", sequences)[:, 0].numpy()
    return _Script(sequences, finished, logprobs)


@lru_cache(maxsize=8)
def shaped_pairs(pairs: TokenizedPairs, shape: str) -> TokenizedPairs:
    """Return tokenised pairs with their completions in one of SHAPES."""
    rows = enumerate(zip(pairs.sequences.prompts, pairs.sequences.completions, strict=True))
    groups = tuple(tuple(_shaped(prompt, tokens, row, shape) for tokens in group) for row, (prompt, group) in rows)
    return replace(pairs, sequences=Sequences(pairs.sequences.prompts, groups))


def _shaped(prompt: np.ndarray, tokens: np.ndarray, row: int, shape: str) -> np.ndarray:
    """Return a task's own completion in one of SHAPES; "usual" adds up to six tokens, so that lengths differ on any task."""
    if shape in EXTENDED:
        body = tokens[:-1] if len(tokens) > 1 else prompt
        return np.append(np.resize(body, EXTENDED[shape] - 1), tokens[-1:] if len(tokens) else prompt[-1:])
    if shape != "usual" or len(tokens) == 0:
        return _cut(tokens, row, shape)
    rng = generator_of("length", key_of(prompt, tokens))
    return np.concatenate([tokens[:-1], rng.choice(prompt, size=int(rng.integers(0, 7))), tokens[-1:]])


def _cut(tokens: np.ndarray, row: int, shape: str) -> np.ndarray:
    """Return a completion in one of SHAPES, shortened where the shape requires it."""
    if shape == "one token":
        return tokens[-1:]
    return tokens[:0] if shape == "empty" or (shape == "some empty" and row % 3 == 0) else tokens


_ENCODED: WeakKeyDictionary[Policy, dict[str, np.ndarray]] = WeakKeyDictionary()  # encoded prompts, for all stand-ins of a policy


class StandInPolicy(Policy):
    """A policy whose parameters are its own token statistics: one vector for each name in STATISTICS that was requested."""

    @staticmethod
    def of(policy: Policy, numbers: Numbers, *, shape: str = "usual", dtype: torch.dtype = torch.float64) -> StandInPolicy:
        """Return the stand-in of a real policy, with its tokenizer and model. shape: of the pairs' completions, one of SHAPES."""
        twin = recast(policy, StandInPolicy)
        twin.numbers, twin.leaf_dtype = numbers, dtype
        twin.leaves, twin.places, twin.indices = {}, {}, {}
        twin.temperatures, twin.calls = set(), 0
        twin.encoded = _ENCODED.setdefault(policy, {})
        twin.pair_tokenizer = ChangedPairs(policy.pair_tokenizer, partial(shaped_pairs, shape=shape))
        return twin

    numbers: Numbers
    leaf_dtype: torch.dtype
    leaves: dict[str, nn.Parameter]  # statistic -> [all tokens seen]
    places: dict[str, dict[Key, slice]]
    indices: dict[str, WeakKeyDictionary[Sequences, Tensor]]  # statistic -> indices of the sequences' tokens in its leaf
    temperatures: set[float]
    calls: int
    encoded: dict[str, np.ndarray]
    has_met_loss: bool = False  # whether a loss was computed, so that the statistics it reads are known

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the leaves."""
        return self.leaf_dtype

    @property
    def leaf_names(self) -> list[str]:
        """The names of the statistics requested so far, in the order of the parameters."""
        return [name for name in STATISTICS if name in self.leaves]

    def holds(self, sequences: Sequence[Sequences]) -> bool:
        """Whether all statistics requested so far exist for these sequences too."""
        keys = [key for each in sequences for key in keys_of(each)]
        return bool(self.leaves) and all(key in known for known in self.places.values() for key in keys)

    def encode_prompt(self, prompt: Any, tools: Sequence[Any] = ()) -> np.ndarray:
        """Return the tokens that the real policy encodes; those of a plain text are cached."""
        if not isinstance(prompt, str) or tools:
            return super().encode_prompt(prompt, tools)
        if prompt not in self.encoded:
            self.encoded[prompt] = super().encode_prompt(prompt, tools)
        return self.encoded[prompt]

    def parameters(self) -> list[nn.Parameter]:
        """Return the leaves, in the order of `leaf_names`."""
        return [self.leaves[name] for name in self.leaf_names]

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS, reference: Any = None
    ) -> TokenStatistics:
        """Return the values [P, G, T] of the leaves for these sequences, with a gradient."""
        self.calls += 1
        self.temperatures.add(temperature)
        wanted = ("token_logprobs", *(name for name in STATISTICS[1:] if name in requires))
        found = {name: self._gathered(name, sequences) for name in wanted}
        found["token_logprobs"] = found["token_logprobs"] / temperature
        return TokenStatistics(**found)

    def _gathered(self, name: str, sequences: Sequences) -> Tensor:
        indices = self.indices.setdefault(name, WeakKeyDictionary())
        if sequences not in indices:
            index = [np.zeros(0, dtype=np.int64)]
            index += [np.arange(place.start, place.stop) for place in self._register(name, sequences)]
            indices[sequences] = torch.from_numpy(np.concatenate(index))
        return unflatten(self.leaves[name][indices[sequences]], sequences.token_mask) * sequences.completion_mask

    def _register(self, name: str, sequences: Sequences) -> list[slice]:
        known = self.places.setdefault(name, {})
        keys, fresh = keys_of(sequences), []
        total = len(self.leaves[name]) if name in self.leaves else 0
        for key in keys:
            if key not in known:
                length = len(key[1]) // ITEM
                known[key] = slice(total, total + length)
                fresh.append(self.numbers.of("policy", name, key, length))
                total += length
        if fresh or name not in self.leaves:
            values = torch.from_numpy(np.concatenate([np.zeros(0), *fresh])).to(self.leaf_dtype)
            old = [self.leaves[name].detach()] if name in self.leaves else []
            self.leaves[name] = nn.Parameter(torch.cat([*old, values]))
        return [known[key] for key in keys]


class ChangedPairs(PairTokenizer):
    """Tokenises pairs with another tokenizer and changes the result."""

    def __init__(self, original: PairTokenizer, change: Callable[[TokenizedPairs], TokenizedPairs]) -> None:
        self.original, self.change = original, change

    def __call__(self, pairs: Sequence[Any]) -> TokenizedPairs:
        return self.change(self.original(pairs))


class StandInReference(Reference):
    """A reference that returns synthetic statistics without a gradient and counts its calls.

    raised: key of a completion -> nats by which the log-probability of its tokens is higher: a number, or [T].
    """

    @staticmethod
    def of(reference: Reference, numbers: Numbers, *, dtype: torch.dtype = torch.float64) -> StandInReference:
        """Return the stand-in of a real reference."""
        twin = recast(reference, StandInReference)
        twin.numbers, twin.dtype, twin.calls, twin.raised, twin.temperatures = numbers, dtype, 0, {}, set()
        return twin

    numbers: Numbers
    dtype: torch.dtype
    calls: int
    raised: dict[Key, float | np.ndarray]
    temperatures: set[float]

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS
    ) -> TokenStatistics:
        """Return the reference's statistics [P, G, T] for these sequences."""
        self.calls += 1
        self.temperatures.add(temperature)
        names = ("token_logprobs", *(name for name in STATISTICS[1:5] if name in requires))
        heat = {"token_logprobs": temperature}
        found = {name: given(self.numbers, "reference", name, sequences, heat.get(name, 1.0)).to(self.dtype) for name in names}
        if self.raised:
            parts = [np.broadcast_to(self.raised.get(key, 0.0), len(key[1]) // ITEM) for key in keys_of(sequences)]
            by = unflatten(torch.from_numpy(np.concatenate(parts)), sequences.token_mask)
            found["token_logprobs"] = found["token_logprobs"] + by * sequences.completion_mask / temperature
        return TokenStatistics(**found)

    def logits(self, sequences: Sequences) -> Tensor:
        """Return the logits of the real reference."""
        self.calls += 1
        return super().logits(sequences)

    def _pair_values(self, batch: Any, *, comes_again: bool) -> Tensor:
        return self.token_logprobs(batch.sequences)
