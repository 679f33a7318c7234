"""The decoding loop: a batch of prompts, each with G completions, until every row has ended.

Dimensions: P prompts, G completions of a prompt, B = P * G rows in the order of the prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Tokens
from rlx.rollout.cache import rows_to_keep
from rlx.rollout.forward import Forward
from rlx.rollout.stop import StopStrings
from rlx.seeding import uniforms

Choose = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]]  # logits [B, V], uniform [B] -> tokens, log-probabilities [B]


@dataclass(frozen=True, eq=False)
class Completions:
    """tokens: int64 [B, T]; logprobs: float32 [B, T]; lengths: int64 [B]; finished: bool [B], not ended by its limit."""

    tokens: np.ndarray
    logprobs: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray

    @staticmethod
    def empty(rows: int, width: int) -> Completions:
        """Room for `rows` completions of up to `width` tokens."""
        tokens, logprobs = np.zeros((rows, width), dtype=np.int64), np.zeros((rows, width), dtype=np.float32)
        return Completions(tokens, logprobs, np.zeros(rows, dtype=np.int64), np.zeros(rows, dtype=bool))

    def place(self, other: Completions, rows: np.ndarray) -> None:
        """Writes `other` into `rows`, int64 [B'], of this."""
        width = other.tokens.shape[1]
        self.tokens[rows, :width] = other.tokens
        self.logprobs[rows, :width] = other.logprobs
        self.lengths[rows] = other.lengths
        self.finished[rows] = other.finished


def decode(
    forward: Forward,
    prompts: Sequence[Tokens],
    *,
    group_size: int,
    limits: np.ndarray,
    end_tokens: Sequence[int],
    keys: np.ndarray | None,
    choose: Choose,
    stop: StopStrings | None,
) -> Completions:
    """Completes every prompt `group_size` times.

    limits: int64 [P], the longest completion of each prompt; keys: uint64 [B], the random address of each row, None for greedy.
    """
    row_limits = np.repeat(limits, group_size)
    width = int(limits.max())
    out = Completions.empty(len(row_limits), width)
    ends = np.asarray(sorted(end_tokens), dtype=np.int64)
    rows = np.arange(len(row_limits))  # which completion each row of the shrinking batch is
    logits = forward.start(prompts, group_size=group_size, max_new_tokens=width)
    for position in range(width):
        uniform = None if keys is None else torch.from_numpy(uniforms(keys[rows], position)).to(logits.device)
        chosen, chosen_logprobs = choose(logits, uniform)
        tokens = chosen.cpu().numpy()
        out.tokens[rows, position] = tokens
        out.logprobs[rows, position] = chosen_logprobs.cpu().numpy()
        finished = np.isin(tokens, ends)
        if stop is not None:
            finished |= [stop.complete(out.tokens[row, : position + 1]) for row in rows]
        ended = finished | (position + 1 >= row_limits[rows])
        if ended.any():
            out.finished[rows[finished]] = True
            out.lengths[rows[ended]] = position + 1
            if ended.all():
                break
            keep = rows_to_keep(torch.from_numpy(~ended))
            rows = rows[keep.numpy()]
            keep = keep.to(logits.device)
            forward.keep(keep)
            chosen = chosen[keep]
        logits = forward.step(chosen)
    return out
