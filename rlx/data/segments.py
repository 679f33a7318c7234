"""Where the trunks and branches of shared-prefix rows lie, for attention that computes no more than what is seen.

Dimensions: P prompts, G completions of a prompt, T tokens of the one row, A tokens of the longest trunk (a prompt with what all
its completions begin with), R tokens of the longest branch (the rest of a completion).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """Places within a row. Padding of the shorter ones stands for the first token of the prompt.

    trunks: int64 [P, A]; branches: int64 [P, G, R].
    back: int64 [T], where each token lies among the trunks and then the branches, both flattened.
    visible: bool [P, R, A + R], or [1, R, A + R] where it is the same for all: which keys, of the trunk and then of the branch
    itself, a token of a branch sees.
    """

    trunks: Tensor
    branches: Tensor
    back: Tensor
    visible: Tensor

    @staticmethod
    def of(lengths: np.ndarray, starts: np.ndarray) -> Segments:
        """From the lengths of each trunk and its branches, int64 [P, 1 + G], and where each trunk begins, [P]."""
        begins = starts[:, None] + np.cumsum(lengths, axis=1) - lengths
        num_prompts, group_size = len(lengths), lengths.shape[1] - 1
        longest, rest = int(lengths[:, 0].max()), int(lengths[:, 1:].max())
        trunks = _branch_places(begins[:, 0], lengths[:, 0], longest, starts)
        branches = _branch_places(begins[:, 1:], lengths[:, 1:], rest, starts[:, None])
        counts = lengths.reshape(-1)
        step = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = np.empty_like(lengths)  # of each segment, among the flattened ones
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
        """The same on `device`."""
        return Segments(self.trunks.to(device), self.branches.to(device), self.back.to(device), self.visible.to(device))


def _branch_places(begins: np.ndarray, lengths: np.ndarray, longest: int, otherwise: np.ndarray) -> np.ndarray:
    """[..., longest] the places of segments; `otherwise` in the padding."""
    steps = np.arange(longest)
    return np.where(steps < lengths[..., None], begins[..., None] + steps, otherwise[..., None])
