"""How sequences are arranged in the rows of a forward pass, and which position predicts which completion token.

This is the only module that aligns predictions with tokens. The last token of a completion predicts nothing, so rows leave it
out, which makes short completions considerably cheaper.

Dimensions: P prompts, G completions of a prompt, B rows of the forward, T tokens of a row, N learned completion tokens in the
order of `Sequences.completion_mask`. A completion token that is not learned is an input like any other, but is not predicted.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Sequences

ROUNDING = 3  # increased whenever a change of the rows changes the last bits of results computed from them


@dataclass(frozen=True, eq=False)
class Segments:
    """The positions of the trunks and branches of shared-prefix rows in their row, for attention branch by branch.

    Shorter ones are padded with the position of the prompt's first token.

    trunks: int64 [P, A]; branches: int64 [P, G, R].
    back: int64 [T], the index of each token of the row in the flattened trunks followed by the flattened branches.
    visible: bool [P, R, A + R], or [1, R, A + R] if the same for all: which keys, of the trunk and then of the branch itself, a
    token of a branch attends to.
    """

    trunks: Tensor
    branches: Tensor
    back: Tensor
    visible: Tensor

    @staticmethod
    def of(lengths: np.ndarray, starts: np.ndarray) -> Segments:
        """Build it from the lengths of each trunk and its branches, int64 [P, 1 + G], and the start of each trunk, [P]."""
        begins = starts[:, None] + np.cumsum(lengths, axis=1) - lengths
        num_prompts, group_size = len(lengths), lengths.shape[1] - 1
        longest, rest = int(lengths[:, 0].max()), int(lengths[:, 1:].max())
        trunks = _branch_places(begins[:, 0], lengths[:, 0], longest, starts)
        branches = _branch_places(begins[:, 1:], lengths[:, 1:], rest, starts[:, None])
        counts = lengths.reshape(-1)
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.empty_like(lengths)  # start of each segment among the flattened ones
        first[:, 0] = np.arange(num_prompts) * longest
        first[:, 1:] = num_prompts * longest + np.arange(num_prompts * group_size).reshape(num_prompts, -1) * rest
        back = np.repeat(first.reshape(-1), counts) + step
        of_trunk = np.arange(longest) < lengths[:, :1]
        of_trunk = of_trunk[:1] if (of_trunk == of_trunk[:1]).all() else of_trunk
        own = np.tril(np.ones((rest, rest), dtype=bool))
        both = (np.broadcast_to(part, (len(of_trunk), rest, part.shape[-1])) for part in (of_trunk[:, None], own[None]))
        visible = np.concatenate(list(both), axis=-1)
        return Segments(*(torch.from_numpy(array) for array in (trunks, branches, back, visible)))

    def to(self, device: torch.device) -> Segments:
        """The same segments with their tensors on `device`."""
        return Segments(self.trunks.to(device), self.branches.to(device), self.back.to(device), self.visible.to(device))


def _branch_places(begins: np.ndarray, lengths: np.ndarray, longest: int, otherwise: np.ndarray) -> np.ndarray:
    """[..., longest] the positions of segments, padded with `otherwise`."""
    steps = np.arange(longest)
    return np.where(steps < lengths[..., None], begins[..., None] + steps, otherwise[..., None])


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of one forward pass.

    tokens: int64 [B, T], 0 in the padding.
    predictors: int64 [N], the flat index into [B * T] of the position whose logits predict each completion token.
    targets: int64 [N], the completion tokens.
    positions: int64 [B, T] for the shared-prefix layout, with attention_mask: bool [B, 1, T, T] (True = may attend), or segments,
    for attention branch by branch within one row; None for plain rows, as a right-padded causal model needs neither.
    """

    tokens: Tensor
    predictors: Tensor
    targets: Tensor
    positions: Tensor | None = None
    attention_mask: Tensor | None = None
    segments: Segments | None = None

    def to(self, device: torch.device) -> Layout:
        """The same rows on `device`."""
        positions = None if self.positions is None else self.positions.to(device)
        mask = None if self.attention_mask is None else self.attention_mask.to(device)
        segments = None if self.segments is None else self.segments.to(device)
        return Layout(self.tokens.to(device), self.predictors.to(device), self.targets.to(device), positions, mask, segments)


def plain_rows(sequences: Sequences) -> Layout:
    """One row per completion, [P * G, T]: `[prompt | completion]` without the last token, right-padded."""
    prompts = np.repeat(lengths_of(sequences.prompts), sequences.group_size)
    lengths = sequences.completion_lengths.numpy().reshape(-1)
    totals = prompts + np.maximum(lengths - 1, 0)
    valid = np.arange(totals.max()) < totals[:, None]
    tokens = np.zeros(valid.shape, dtype=np.int64)
    groups = zip(sequences.prompts, sequences.completions, strict=True)
    tokens[valid] = np.concatenate(
        [part for prompt, group in groups for completion in group for part in (prompt, completion[:-1])]
    )
    starts = np.arange(len(tokens)) * tokens.shape[1] + prompts - 1
    predictors = np.repeat(starts, lengths) + _counted(lengths)
    return Layout(torch.from_numpy(tokens), _learned(sequences, torch.from_numpy(predictors)), _targets(sequences))


def shared_prefix_rows(sequences: Sequences, *, rows_of: np.ndarray | None = None, branched: bool = False) -> Layout:
    """Each prompt once, [B, T]: `[trunk | rest of completion 1 | ... | rest of completion G]`, several prompts per row.

    The trunk is the prompt plus the common prefix of its completions. The rest of a completion, without its last token, attends
    to the trunk and itself, and its positions follow the trunk's. Padding attends only to padding (a query without any key gives
    NaN in some attention kernels).
    rows_of: int64 [P], the row of each prompt; None: one row per prompt.
    branched: all in one row, with segments instead of a mask.
    """
    rows_of = np.zeros(len(sequences), dtype=np.int64) if branched else rows_of
    rows_of = np.arange(len(sequences)) if rows_of is None else rows_of
    common, prompts = shared_beginnings(sequences), lengths_of(sequences.prompts)
    lengths = sequences.completion_lengths.numpy()
    trunk = prompts + common
    segments = np.concatenate([trunk[:, None], rests_of(lengths, common)], axis=1)  # [P, 1 + G]
    begins = np.cumsum(segments, axis=1) - segments
    totals = segments.sum(axis=1)
    starts, shape = _places(totals, rows_of)

    flat = np.repeat(starts, totals) + _counted(totals)
    offset = _counted(segments.reshape(-1))
    segment = np.repeat(np.tile(np.arange(segments.shape[1]), len(segments)), segments.reshape(-1))
    tokens, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    tokens.reshape(-1)[flat] = _trunks_and_rests(sequences, common)
    positions.reshape(-1)[flat] = offset + (segment > 0) * np.repeat(trunk, totals)
    of_prompt = np.repeat(np.arange(len(trunk)) * segments.shape[1], totals)

    ends = (starts + prompts - 1)[:, None].repeat(lengths.shape[1], axis=1)
    rests = starts[:, None] + begins[:, 1:] - common[:, None] - 1
    step = _counted(lengths.reshape(-1))
    in_trunk = step <= np.repeat(common, lengths.sum(axis=1))
    predictors = step + np.where(
        in_trunk, np.repeat(ends.reshape(-1), lengths.reshape(-1)), np.repeat(rests.reshape(-1), lengths.reshape(-1))
    )
    visible = None if branched else _visible(flat, of_prompt + segment, of_prompt, shape)
    return Layout(
        torch.from_numpy(tokens),
        _learned(sequences, torch.from_numpy(predictors)),
        _targets(sequences),
        torch.from_numpy(positions),
        visible,
        Segments.of(segments, starts) if branched else None,
    )


def shared_beginnings(sequences: Sequences) -> np.ndarray:
    """int64 [P], the number of leading tokens shared by all completions of a prompt; 0 with only one completion."""
    if sequences.group_size < 2:
        return np.zeros(len(sequences), dtype=np.int64)
    tokens, mask = sequences.completion_tokens.numpy(), sequences.token_mask.numpy()
    same = (tokens == tokens[:, :1]).all(axis=1) & mask.all(axis=1)
    common: np.ndarray = np.logical_and.accumulate(same, axis=1).sum(axis=1)
    return common


def rests_of(lengths: np.ndarray, common: np.ndarray) -> np.ndarray:
    """int64 [P, G], the number of tokens of each completion that follow the trunk in the row."""
    rests: np.ndarray = np.maximum(lengths - common[:, None] - 1, 0)
    return rests


def _trunks_and_rests(sequences: Sequences, common: np.ndarray) -> np.ndarray:
    """The tokens of the rows in the order of the shared-prefix layout, without padding."""
    parts = []
    for prompt, group, shared in zip(sequences.prompts, sequences.completions, common.tolist(), strict=True):
        parts += [prompt, group[0][:shared], *(completion[shared:-1] for completion in group)]
    return np.concatenate(parts)


def _visible(flat: np.ndarray, branch: np.ndarray, trunk: np.ndarray, shape: tuple[int, int]) -> Tensor:
    """bool [B, 1, T, T], whether a query attends to a key, from the position, branch and trunk of each token."""
    branches, trunks = np.full(shape, -1), np.full(shape, -1)
    branches.reshape(-1)[flat], trunks.reshape(-1)[flat] = branch, trunk
    keys, queries, roots = (torch.from_numpy(array) for array in (branches[:, None, :], branches[:, :, None], trunks[:, :, None]))
    causal = torch.ones(shape[1], shape[1], dtype=torch.bool).tril_()
    return ((keys == queries) | (keys == roots)).logical_and_(causal)[:, None]


def _places(totals: np.ndarray, rows_of: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """The flat index at which each item of lengths `totals` [P] begins in the rows, and the shape of the rows."""
    order = np.argsort(rows_of, kind="stable")
    filled = np.cumsum(totals[order]) - totals[order]
    num_rows = int(rows_of.max()) + 1
    row_lengths = np.bincount(rows_of, weights=totals, minlength=num_rows).astype(np.int64)
    before = np.cumsum(row_lengths) - row_lengths
    width = int(row_lengths.max())
    starts = np.empty_like(totals)
    starts[order] = filled - before[rows_of[order]] + rows_of[order] * width
    return starts, (num_rows, width)


def _targets(sequences: Sequences) -> Tensor:
    """int64 [N], the learned completion tokens."""
    return _learned(sequences, torch.from_numpy(np.concatenate(list(chain.from_iterable(sequences.completions)))))


def _learned(sequences: Sequences, values: Tensor) -> Tensor:
    """[N], the entries of `values` [number of completion tokens] that belong to learned tokens."""
    return values if sequences.learned_tokens is None else values[sequences.learned_tokens]


def lengths_of(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """int64 [number of arrays]: the length of each array."""
    return np.fromiter((len(array) for array in arrays), dtype=np.int64, count=len(arrays))


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ..., length - 1 for each of the lengths, concatenated."""
    ends = np.cumsum(lengths)
    counted: np.ndarray = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    return counted


def cheapest_rows(sequences: Sequences, *, attention_cost: float, branch_cost: float | None = None) -> Layout:
    """The cheapest of: shared-prefix rows with several prompts packed per row, one branch-by-branch row, or plain rows.

    attention_cost: the cost per token of attending to one more position, relative to the cost that does not depend on the row's
    length. branch_cost: the cost per token of splitting a row for attention branch by branch, in the same unit; None if the model
    does not support it. Longer rows waste less on padding and more on masked attention; plain causal attention skips the masked
    half.
    """
    prompts, lengths, common = lengths_of(sequences.prompts), sequences.completion_lengths.numpy(), shared_beginnings(sequences)
    totals = prompts + common + rests_of(lengths, common).sum(axis=1)
    longest = int((prompts[:, None] + np.maximum(lengths - 1, 0)).max())
    plain_cost = lengths.size * longest * (1 + attention_cost * longest / 2)
    best_cost, best = plain_cost, None
    whole = {-(-len(totals) // each) for each in (1, 2, 3, 4, 8)}  # equally many prompts per row: best for similar lengths
    full = {-(-int(totals.sum()) // int(width)) for width in (totals.max(), 2 * totals.max())}  # best for very different lengths
    for num_rows in sorted(whole | full, reverse=True):
        rows_of = balanced(totals, num_rows)
        row_lengths = np.bincount(rows_of, weights=totals)
        cost = len(row_lengths) * row_lengths.max() * (1 + attention_cost * row_lengths.max())
        if cost < best_cost:
            best_cost, best = cost, rows_of
    if branch_cost is not None:
        trunks, branches = prompts + common, rests_of(lengths, common)
        longest, rest = int(trunks.max()), int(branches.max())
        seen = len(trunks) * longest**2 / 2 + branches.size * rest * (longest + rest)
        if totals.sum() * (1 + branch_cost) + attention_cost * seen < best_cost:
            return shared_prefix_rows(sequences, branched=True)
    return plain_rows(sequences) if best is None else shared_prefix_rows(sequences, rows_of=best)


def balanced(totals: np.ndarray, num_rows: int) -> np.ndarray:
    """int64 [P], a row for each item of lengths `totals` [P]: longest first, each into the row with the fewest tokens so far."""
    if num_rows >= len(totals):
        return np.arange(len(totals))
    rows_of = np.empty(len(totals), dtype=np.int64)
    fill = [(0, row) for row in range(num_rows)]
    for item in np.argsort(-totals, kind="stable").tolist():
        length, row = fill[0]
        rows_of[item] = row
        heapq.heapreplace(fill, (length + int(totals[item]), row))
    return rows_of
