"""Batches of preference pairs.

Dimensions: B pairs of a batch, T tokens; G = 2, chosen before rejected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.data.tokenized import TokenizedPairs
from rlx.errors import DataError
from rlx.seeding import Stream


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Some pairs, with the weights that an algorithm gives them.

    source: the tokenised pairs that the batch was taken from. rows: int64 [B], their indices in it.
    sequences: B pairs, chosen before rejected. weights: name -> tensor of B rows; slicing slices them too.
    tokens_sampled: number of tokens sampled to make the batch, if its pairs were sampled.
    """

    source: TokenizedPairs
    rows: np.ndarray
    sequences: Sequences
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    scores: Tensor | None = None
    label: Tensor | None = None
    has_label: Tensor | None = None
    tokens_sampled: int = 0

    @staticmethod
    def of(source: TokenizedPairs, rows: np.ndarray | Sequence[int]) -> PairBatch:
        """The pairs at `rows`, longest last, so that a micro-batch has pairs of similar lengths."""
        rows = np.asarray(rows, dtype=np.int64)
        rows = rows[np.argsort(source.lengths[rows], kind="stable")]
        return PairBatch(source, rows, source.sequences.take(rows), **_picked(source, torch.from_numpy(rows)))

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> PairBatch:
        if range(*rows.indices(len(self))) == range(len(self)):
            return self
        sequences = self.sequences[rows]
        width = sequences.completion_mask.shape[-1]
        return PairBatch(
            self.source,
            self.rows[rows],
            sequences,
            {name: weight[rows] if weight.ndim == 1 else weight[rows, ..., :width] for name, weight in self.weights.items()},
            self.metrics,
            **_picked(self, rows),
        )

    def with_weights(self, **weights: Tensor) -> PairBatch:
        """A copy with these weights added; each has B rows."""
        return replace(self, weights={**self.weights, **weights})

    @property
    def row_tokens(self) -> list[int]:
        """The number of tokens of each pair."""
        return self.sequences.row_tokens

    def chosen_only(self) -> PairBatch:
        """The same rows with only the chosen completion (G = 1), for algorithms that learn from demonstrations."""
        return replace(self, sequences=self.sequences.only(slice(0, 1)))

    @property
    def chosen_mask(self) -> Tensor:
        """bool [B, T], True at the tokens of the chosen completions."""
        mask = self.sequences.completion_mask
        return mask[:, 0] if len(self) else mask.new_zeros((0, mask.shape[-1]))

    @property
    def rejected_mask(self) -> Tensor:
        """bool [B, T], True at the tokens of the rejected completions."""
        return self.sequences.completion_mask[:, 1]

    @cached_property
    def mismatched(self) -> Sequences:
        """Each prompt with the completions of the next pair in the source, independent of the other rows.

        [B, 2, T]; if the source has single completions, [B, 1, T] with the one that exists.
        """
        after = self.source.sequences.take((self.rows + 1) % len(self.source))
        groups, learned = after.completions, after.learned
        if self.source.has_label is not None and not self.source.has_label.all():
            there = [slice(0, 1) if len(group[0]) else slice(1, 2) for group in groups]
            groups = tuple(group[place] for group, place in zip(groups, there, strict=True))
            learned = None if learned is None else tuple(group[place] for group, place in zip(learned, there, strict=True))
        return Sequences(self.sequences.prompts, groups, learned=learned)


def _picked(pairs: TokenizedPairs | PairBatch, rows: Tensor | slice) -> dict[str, Any]:
    """The optional columns at `rows`."""
    columns = {name: getattr(pairs, name) for name in ("scores", "label", "has_label")}
    return {name: None if column is None else column[rows] for name, column in columns.items()}


def epoch_rows(stream: Stream, *, num_rows: int, step: int, per_step: int) -> np.ndarray:
    """int64 [per_step]: the rows of one step, such that every row comes once per epoch; a pure function of its arguments.

    A step that passes the end of an epoch, or needs more rows than there are, continues in the next epoch's order.
    """
    if num_rows == 0:
        raise DataError("there is nothing to learn from: every pair was dropped; the task's counts say why")
    places = np.arange(step * per_step, (step + 1) * per_step)
    epochs, offsets = np.divmod(places, num_rows)
    return np.concatenate([_epoch_order(stream, int(e), num_rows)[offsets[epochs == e]] for e in np.unique(epochs)])


@lru_cache(maxsize=8)
def _epoch_order(stream: Stream, epoch: int, num_rows: int) -> np.ndarray:
    """int64 [num_rows], the order of an epoch."""
    return stream.child("epoch", epoch).numpy().permutation(num_rows)
