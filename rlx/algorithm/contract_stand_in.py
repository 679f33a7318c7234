"""A laboratory of given numbers: a policy whose token statistics are leaves, and a reference that agrees with it.

Laws of gradients hold there to rounding in float64, and a step takes milliseconds.
Dimensions: P prompts, G completions, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlx.algorithm.contract_numbers import STATISTICS, Key, Numbers, given, key_of
from rlx.algorithm.contract_sampler import shaped_pairs
from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.policy.base import NO_STATISTICS, Policy
from rlx.policy.reference import Reference
from rlx.policy.statistics import TokenStatistics, unflatten


class StandInPolicy(Policy):
    """A policy whose parameters are its own token statistics: one vector for each of STATISTICS that was ever asked for."""

    @staticmethod
    def of(policy: Policy, numbers: Numbers, *, shape: str = "usual", dtype: torch.dtype = torch.float64) -> StandInPolicy:
        """The stand-in of a real policy, from which it has tokenizer, model and text. shape: of pairs, one of SHAPES."""
        twin = copy.copy(policy)
        twin.__class__ = StandInPolicy
        assert isinstance(twin, StandInPolicy)
        twin.numbers, twin.shape, twin.leaf_dtype = numbers, shape, dtype
        twin.leaves, twin.places = {}, {}
        twin.temperatures, twin.calls, twin.real = set(), 0, policy
        return twin

    numbers: Numbers
    shape: str
    leaf_dtype: torch.dtype
    leaves: dict[str, nn.Parameter]  # statistic -> [all tokens seen]
    places: dict[str, dict[Key, slice]]
    temperatures: set[float]
    calls: int
    real: Policy

    @property
    def dtype(self) -> torch.dtype:
        """Of the leaves."""
        return self.leaf_dtype

    @property
    def leaf_names(self) -> list[str]:
        """Of the statistics that were asked for, in the order of the parameters."""
        return [name for name in STATISTICS if name in self.leaves]

    def parameters(self) -> list[nn.Parameter]:
        """The leaves."""
        return [self.leaves[name] for name in self.leaf_names]

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS, reference: Any = None
    ) -> TokenStatistics:
        """The leaves of these sequences, with a gradient."""
        self.calls += 1
        self.temperatures.add(temperature)
        wanted = ("token_logprobs", *(name for name in STATISTICS[1:] if name in requires))
        found = {name: self._gathered(name, sequences) for name in wanted}
        found["token_logprobs"] = found["token_logprobs"] / temperature
        return TokenStatistics(**found)

    def tokenized(self, pairs: Sequence[Any]) -> TokenizedPairs:
        """The pairs as tokens, cut to the shape of this laboratory."""
        return shaped_pairs(self.real.tokenized(pairs), self.shape)

    def _gathered(self, name: str, sequences: Sequences) -> Tensor:
        places = self._register(name, sequences)
        index = [np.arange(place.start, place.stop) for place in places]
        flat = self.leaves[name][torch.from_numpy(np.concatenate(index))] if index else self.leaves[name][:0]
        return unflatten(flat, sequences.completion_mask)

    def _register(self, name: str, sequences: Sequences) -> list[slice]:
        known = self.places.setdefault(name, {})
        keys, fresh = [], []
        total = len(self.leaves[name]) if name in self.leaves else 0
        for prompt, group in zip(sequences.prompts, sequences.completions, strict=True):
            for tokens in group:
                keys.append(key := key_of(prompt, tokens))
                if key not in known:
                    known[key] = slice(total, total + len(tokens))
                    fresh.append(self.numbers.of("policy", name, key, len(tokens)))
                    total += len(tokens)
        if fresh or name not in self.leaves:
            values = torch.from_numpy(np.concatenate([np.zeros(0), *fresh])).to(self.leaf_dtype)
            old = [self.leaves[name].detach()] if name in self.leaves else []
            self.leaves[name] = nn.Parameter(torch.cat([*old, values]))
        return [known[key] for key in keys]


class StandInReference(Reference):
    """A reference that gives numbers, never a gradient, and counts how often it was asked.

    raised: by how much the log-probability of each token of some completions is higher.
    """

    @staticmethod
    def of(reference: Reference, numbers: Numbers, *, dtype: torch.dtype = torch.float64) -> StandInReference:
        """The stand-in of a real reference."""
        twin = copy.copy(reference)
        twin.__class__ = StandInReference
        assert isinstance(twin, StandInReference)
        twin.numbers, twin.dtype, twin.calls, twin.raised, twin.temperatures = numbers, dtype, 0, {}, set()
        return twin

    numbers: Numbers
    dtype: torch.dtype
    calls: int
    raised: dict[Key, float]
    temperatures: set[float]

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS
    ) -> TokenStatistics:
        """Numbers [P, G, T]."""
        self.calls += 1
        self.temperatures.add(temperature)
        names = ("token_logprobs", *(name for name in STATISTICS[1:5] if name in requires))
        found = {name: given(self.numbers, "reference", name, sequences).to(self.dtype) for name in names}
        if self.raised:
            rows = zip(sequences.prompts, sequences.completions, strict=True)
            by = torch.tensor([[self.raised.get(key_of(prompt, tokens), 0.0) for tokens in group] for prompt, group in rows])
            found["token_logprobs"] = found["token_logprobs"] + by[..., None] * sequences.completion_mask
        return TokenStatistics(**{**found, "token_logprobs": found["token_logprobs"] / temperature})

    def logits(self, sequences: Sequences) -> Tensor:
        """Those of the real reference."""
        self.calls += 1
        return super().logits(sequences)

    def _pair_values(self, batch: Any) -> Tensor:
        return self.token_logprobs(batch.sequences)
