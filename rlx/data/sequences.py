"""Token sequences that share prompts: what a policy scores and what a sampler makes.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rlx.errors import ShapeError

Tokens = np.ndarray  # int64 [T]: the tokens of one prompt or of one completion


@dataclass(frozen=True, eq=False)
class Sequences:
    """P prompts with G completions each. A row is a prompt with its completions: a pair (G = 2), a group, a demonstration.

    prompts: P arrays int64 [T_p]; at least one token each.
    completions: P tuples of G arrays int64 [T_pg]; a completion may be empty.
    width: T, at least the longest completion. A slice keeps it, so that per-token tensors of the whole batch fit its slices.
    Example: Sequences((array([5, 6]),), ((array([7, 1]), array([8, 9, 1])),)) is one prompt with two completions.
    """

    prompts: tuple[Tokens, ...]
    completions: tuple[tuple[Tokens, ...], ...]
    width: int = 0

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.completions):
            raise ShapeError(
                f"{len(self.prompts)} prompts with {len(self.completions)} groups of completions; give one group a prompt"
            )
        if len({len(group) for group in self.completions}) > 1:
            raise ShapeError("every prompt needs the same number of completions; split the batch by group size")
        if any(len(prompt) == 0 for prompt in self.prompts):
            raise ShapeError("a prompt has no token to predict the first completion token from; begin it with bos")
        longest = max((len(completion) for group in self.completions for completion in group), default=1)
        object.__setattr__(self, "width", max(1, self.width, longest))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> Sequences:
        return Sequences(self.prompts[rows], self.completions[rows], self.width)

    @property
    def group_size(self) -> int:
        """G."""
        return len(self.completions[0]) if self.completions else 0

    @cached_property
    def completion_lengths(self) -> Tensor:
        """int64 [P, G]."""
        lengths = [[len(completion) for completion in group] for group in self.completions]
        return torch.tensor(lengths, dtype=torch.long).reshape(len(self), self.group_size)

    @cached_property
    def completion_mask(self) -> Tensor:
        """bool [P, G, T], T = width: True at the tokens of a completion, its end-of-sequence token included."""
        return torch.arange(self.width) < self.completion_lengths[..., None]

    @cached_property
    def completion_tokens(self) -> Tensor:
        """int64 [P, G, T], 0 outside of the mask."""
        tokens = torch.zeros(self.completion_mask.shape, dtype=torch.long)
        flat = [completion for group in self.completions for completion in group]
        if flat:
            tokens[self.completion_mask] = torch.from_numpy(np.concatenate(flat))
        return tokens

    @property
    def row_tokens(self) -> list[int]:
        """Tokens of each row: its prompt, counted once, and its completions."""
        return [len(prompt) + sum(map(len, group)) for prompt, group in zip(self.prompts, self.completions, strict=True)]

    @property
    def num_tokens(self) -> int:
        """Tokens in prompts (each counted once) and completions."""
        return sum(self.row_tokens)
