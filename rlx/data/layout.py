"""How sequences lie in the rows of a forward pass, and which position predicts which completion token.

This is the only place where predictions and tokens are aligned. Dimensions: P prompts, G completions of a prompt, B rows of the
forward, T tokens of a row, N completion tokens in the order of `Sequences.completion_mask`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of one forward pass.

    tokens: int64 [B, T], 0 in the padding.
    predictors: int64 [N], the flat index into [B * T] of the position whose logits predict each completion token.
    targets: int64 [N], the completion tokens.
    positions: int64 [B, T] and attention_mask: bool [B, 1, T, T] (True = may see) for the shared-prefix layout; None for plain rows,
    where right padding under a causal model needs neither.
    """

    tokens: Tensor
    predictors: Tensor
    targets: Tensor
    positions: Tensor | None = None
    attention_mask: Tensor | None = None

    def to(self, device: torch.device) -> Layout:
        """The same rows on `device`."""
        moved = (self.tokens, self.predictors, self.targets, self.positions, self.attention_mask)
        return Layout(*(None if tensor is None else tensor.to(device) for tensor in moved))  # type: ignore[arg-type]


def plain_rows(sequences: Sequences) -> Layout:
    """One row per completion, [P * G, T]: `[prompt | completion]`, right-padded."""
    groups = zip(sequences.prompts, sequences.completions, strict=True)
    segments = [segment for prompt, group in groups for completion in group for segment in (prompt, completion)]
    lengths = _lengths(segments).reshape(-1, 2)
    tokens, valid = _padded(segments, lengths.sum(axis=1))
    row, column = np.nonzero(valid)
    is_completion = column >= lengths[row, 0]
    here = (row * tokens.shape[1] + column)[is_completion]
    return Layout(torch.from_numpy(tokens), torch.from_numpy(here - 1), torch.from_numpy(tokens.reshape(-1)[here]))


def shared_prefix_rows(sequences: Sequences) -> Layout:
    """One row per prompt, [P, T]: `[prompt | completion 1 | ... | completion G]`, right-padded.

    A completion sees the prompt and itself, and its positions follow the prompt's. Padding sees the prompt (a row of the mask that is
    all False gives NaN in some attention kernels) and is seen by padding alone.
    """
    group_size = sequences.group_size
    segments = list(chain.from_iterable((p, *g) for p, g in zip(sequences.prompts, sequences.completions, strict=True)))
    lengths = _lengths(segments).reshape(-1, 1 + group_size)
    tokens, valid = _padded(segments, lengths.sum(axis=1))
    width = tokens.shape[1]
    starts = np.cumsum(lengths, axis=1) - lengths
    segment = np.full(tokens.shape, 1 + group_size)
    segment[valid] = np.repeat(np.tile(np.arange(1 + group_size), len(lengths)), lengths.reshape(-1))

    row, column = np.nonzero(valid)
    segment_of = segment[valid]
    offset = column - starts[row, segment_of]
    is_completion = segment_of > 0
    positions = np.zeros_like(tokens)
    positions[valid] = offset + is_completion * lengths[row, 0]
    flat = row * width + column
    before = np.where(offset == 0, row * width + lengths[row, 0] - 1, flat - 1)

    segments_seen = torch.from_numpy(segment)
    keys = segments_seen[:, None, :]
    visible = ((keys == 0) | (keys == segments_seen[:, :, None])).logical_and_(torch.ones(width, width, dtype=torch.bool).tril_())
    return Layout(
        torch.from_numpy(tokens),
        torch.from_numpy(before[is_completion]),
        torch.from_numpy(tokens.reshape(-1)[flat[is_completion]]),
        torch.from_numpy(positions),
        visible[:, None],
    )


def _lengths(segments: list[np.ndarray]) -> np.ndarray:
    """int64 [number of segments]."""
    return np.fromiter((len(segment) for segment in segments), dtype=np.int64, count=len(segments))


def _padded(segments: list[np.ndarray], row_lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 [B, T] with the segments laid out one after the other, and bool [B, T], where they lie."""
    valid = np.arange(row_lengths.max()) < row_lengths[:, None]
    tokens = np.zeros(valid.shape, dtype=np.int64)
    tokens[valid] = np.concatenate(segments)
    return tokens, valid
