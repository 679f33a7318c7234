"""Token sequences that share prompts: the input of a policy and the output of a sampler.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rlx.errors import ShapeError

Tokens = np.ndarray  # int64 [T]: the tokens of one prompt or of one completion
Learned = np.ndarray  # bool [T]: which tokens of a completion are learned


@dataclass(frozen=True, eq=False)
class Sequences:
    """P prompts with G completions each. A row is a prompt with its completions: a pair (G = 2), a group, a demonstration.

    prompts: P arrays int64 [T_p]; at least one token each.
    completions: P tuples of G arrays int64 [T_pg]; a completion may be empty.
    width: T, at least the longest completion. A slice keeps it, so that per-token tensors of the whole batch fit its slices.
    learned: P tuples of G arrays bool [T_pg], False at completion tokens that the policy did not write (a user's turn, a tool's
    result): they are context for later tokens and do not count in any loss. None: every token is learned.
    Example: Sequences((array([5, 6]),), ((array([7, 1]), array([8, 9, 1])),)) is one prompt with two completions.
    """

    prompts: tuple[Tokens, ...]
    completions: tuple[tuple[Tokens, ...], ...]
    width: int = 0
    learned: tuple[tuple[Learned, ...], ...] | None = None

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.completions):
            raise ShapeError(
                f"{len(self.prompts)} prompts with {len(self.completions)} groups of completions; give one group per prompt"
            )
        if len({len(group) for group in self.completions}) > 1:
            raise ShapeError("every prompt needs the same number of completions; split the batch by group size")
        if any(len(prompt) == 0 for prompt in self.prompts):
            raise ShapeError("a prompt has no token to predict the first completion token from; begin it with bos")
        if self.learned is not None and _lengths(self.learned) != _lengths(self.completions):
            raise ShapeError("learned has other lengths than the completions; give one boolean per token")
        longest = max((len(completion) for group in self.completions for completion in group), default=1)
        object.__setattr__(self, "width", max(1, self.width, longest))

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, rows: slice) -> Sequences:
        learned = None if self.learned is None else self.learned[rows]
        return Sequences(self.prompts[rows], self.completions[rows], self.width, learned)

    def take(self, rows: Iterable[int], *, width: int = 0) -> Sequences:
        """The rows `rows`, in that order."""
        rows = list(rows)
        learned = None if self.learned is None else tuple(self.learned[row] for row in rows)
        return Sequences(tuple(self.prompts[row] for row in rows), tuple(self.completions[row] for row in rows), width, learned)

    def only(self, places: slice) -> Sequences:
        """The same prompts with only the completions at `places` of each group."""
        learned = None if self.learned is None else tuple(group[places] for group in self.learned)
        return Sequences(self.prompts, tuple(group[places] for group in self.completions), learned=learned)

    def pick(self, places: Sequence[Sequence[int]]) -> Sequences:
        """The same prompts, each with the completions at its own `places` in its group, in that order."""
        learned = None if self.learned is None else _picked(self.learned, places)
        return Sequences(self.prompts, _picked(self.completions, places), learned=learned)

    @staticmethod
    def join(parts: Sequence[Sequences]) -> Sequences:
        """The rows of all parts, as wide as the longest completion."""
        prompts = tuple(prompt for part in parts for prompt in part.prompts)
        completions = tuple(group for part in parts for group in part.completions)
        if all(part.learned is None for part in parts):
            return Sequences(prompts, completions)
        everywhere = (
            part.learned or tuple(tuple(np.ones(len(tokens), dtype=bool) for tokens in group) for group in part.completions)
            for part in parts
        )
        return Sequences(prompts, completions, learned=tuple(group for part in everywhere for group in part))

    @property
    def group_size(self) -> int:
        """G, the number of completions of a prompt."""
        return len(self.completions[0]) if self.completions else 0

    @cached_property
    def completion_lengths(self) -> Tensor:
        """int64 [P, G], tokens of each completion, learned or not."""
        lengths = [[len(completion) for completion in group] for group in self.completions]
        return torch.tensor(lengths, dtype=torch.long).reshape(len(self), self.group_size)

    @cached_property
    def learned_lengths(self) -> Tensor:
        """int64 [P, G], learned tokens of each completion."""
        if self.learned is None or self.learned_tokens is None:
            return self.completion_lengths
        lengths = [[int(part.sum()) for part in group] for group in self.learned]
        return torch.tensor(lengths, dtype=torch.long).reshape(len(self), self.group_size)

    @cached_property
    def token_mask(self) -> Tensor:
        """bool [P, G, T], T = width: True at the tokens of a completion, including its end-of-sequence token."""
        return torch.arange(self.width) < self.completion_lengths[..., None]

    @cached_property
    def completion_mask(self) -> Tensor:
        """bool [P, G, T]: True at the learned tokens of a completion; statistics and losses use only these."""
        return self.token_mask if self.learned_tokens is None else self._spread(self.learned_tokens)

    @cached_property
    def learned_tokens(self) -> Tensor | None:
        """bool [number of completion tokens], one completion after the other; None if every token is learned."""
        flat = [] if self.learned is None else [part for group in self.learned for part in group]
        return torch.from_numpy(np.concatenate(flat)) if flat and not all(part.all() for part in flat) else None

    @cached_property
    def completion_tokens(self) -> Tensor:
        """int64 [P, G, T], 0 outside of the token mask."""
        flat = [completion for group in self.completions for completion in group]
        if not flat:
            return torch.zeros(self.token_mask.shape, dtype=torch.long)
        return self._spread(torch.from_numpy(np.concatenate(flat)))

    def _spread(self, values: Tensor) -> Tensor:
        """[P, G, T] with one value for each completion token, 0 in the padding."""
        spread = torch.zeros(self.token_mask.shape, dtype=values.dtype)
        spread[self.token_mask] = values
        return spread

    @property
    def row_tokens(self) -> list[int]:
        """Tokens of each row: its prompt, counted once, and its completions."""
        return [len(prompt) + sum(map(len, group)) for prompt, group in zip(self.prompts, self.completions, strict=True)]

    @property
    def num_tokens(self) -> int:
        """Tokens in prompts (each counted once) and completions."""
        return sum(self.row_tokens)


def _picked(groups: tuple[tuple[np.ndarray, ...], ...], places: Sequence[Sequence[int]]) -> tuple[tuple[np.ndarray, ...], ...]:
    return tuple(tuple(group[place] for place in own) for group, own in zip(groups, places, strict=True))


def _lengths(groups: tuple[tuple[np.ndarray, ...], ...]) -> list[list[int]]:
    return [[len(part) for part in group] for group in groups]
