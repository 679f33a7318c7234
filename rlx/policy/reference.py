"""The frozen reference: the policy as it was before training."""

from __future__ import annotations

import torch
from torch import Tensor

from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.loss.pairs import PairLogprobs
from rlx.policy.base import NO_STATISTICS, Policy, TokenStatistics


class Reference:
    """A frozen copy of a policy, called like it, without gradients.

    cache_dir: where log-probabilities of a task's pairs are kept between runs; None keeps them nowhere.
    """

    def __init__(self, policy: Policy, *, cache_dir: str | None = None) -> None:
        self._policy = policy.frozen_copy()
        self.cache_dir = cache_dir
        self.name = policy.name

    @property
    def model(self) -> object:
        """The frozen weights."""
        return self._policy.model

    def token_statistics(
        self, sequences: Sequences, *, temperature: float = 1.0, requires: frozenset[str] = NO_STATISTICS
    ) -> TokenStatistics:
        """As Policy.token_statistics."""
        with torch.no_grad():
            return self._policy.token_statistics(sequences, temperature=temperature, requires=requires)

    def token_logprobs(self, sequences: Sequences, *, temperature: float = 1.0) -> Tensor:
        """As Policy.token_logprobs."""
        return self.token_statistics(sequences, temperature=temperature).token_logprobs

    def pair_logprobs(self, batch: PairBatch, requires: frozenset[str] = NO_STATISTICS) -> PairLogprobs:
        """As Policy.pair_logprobs."""
        with torch.no_grad():
            return self._policy.pair_logprobs(batch, requires)
