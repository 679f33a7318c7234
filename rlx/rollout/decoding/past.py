"""Keys and values of conversations, kept between two turns, so that a turn computes only those of its new tokens.

Dimensions: L layers, H key-value heads, D head dimension, P conversations, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from rlx.data.sequences import Tokens


@dataclass(eq=False)
class Past:
    """The keys and values that a policy has computed for each conversation; its weights must not change meanwhile.

    budget: the most tokens whose keys and values are held; conversations beyond it are read again.
    """

    budget: int
    _held: dict[Hashable, tuple[Tokens, Tensor]] = field(default_factory=dict)
    tokens: int = 0  # that are held

    def keep(self, name: Hashable, tokens: Tokens, states: Tensor) -> None:
        """Hold the keys and values [L, 2, H, T, D] of the tokens, int64 [T], of a conversation, if there is room."""
        self.take(name, tokens[:0])
        if self.tokens + len(tokens) <= self.budget:
            self._held[name] = (tokens, states)
            self.tokens += len(tokens)

    def forget_others(self, names: Collection[Hashable]) -> None:
        """Give up what is held of conversations that are not among `names`: they have ended."""
        for name in self._held.keys() - set(names):
            self.tokens -= len(self._held.pop(name)[0])

    def holds(self, name: Hashable) -> bool:
        """Whether something is held of a conversation."""
        return name in self._held

    def take(self, name: Hashable, history: Tokens) -> Tensor | None:
        """Give up what is held of a conversation: the states [L, 2, H, T, D] of the tokens that `history` begins with.

        The last token of `history` is not among them: it is read again, for the logits after it. None if there are no others.
        """
        if name not in self._held:
            return None
        tokens, states = self._held.pop(name)
        self.tokens -= len(tokens)
        longest = min(len(tokens), len(history) - 1)
        differs = np.flatnonzero(tokens[: max(longest, 0)] != history[: max(longest, 0)])
        same = int(differs[0]) if len(differs) else longest
        return states[:, :, :, :same] if same > 0 else None


def padded(prompts: Sequence[Tokens], *, left: bool) -> tuple[Tensor, Tensor]:
    """Tokens int64 [P, T], 0 where there is none, and mask int64 [P, T]."""
    width = max(len(prompt) for prompt in prompts)
    tokens = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        tokens[row, place] = prompt
        mask[row, place] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def laid_out(prompts: Sequence[Tokens], past: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Tokens int64 [P, T] still to be read, mask int64 [P, F + T], and for each layer states [2, P, H, F, D] of what was read.

    Padding is on the left alone: each row reads as many tokens as the one of which the least is known, and what is known beyond
    that is not used. There are no states where F is 0.
    """
    tokens, mask = padded(prompts, left=True)
    known = [0 if states is None else states.shape[-2] for states in past] or [0] * len(prompts)
    length = max(len(prompt) - size for prompt, size in zip(prompts, known, strict=True))
    before = tokens.shape[1] - length
    if not before:
        return tokens, mask, []
    some = next(states for states in past if states is not None)
    layers, both, heads, _, size = some.shape
    joined = [some.new_zeros(both, len(prompts), heads, before, size) for _ in range(layers)]
    for row, (prompt, states) in enumerate(zip(prompts, past, strict=True)):
        used = len(prompt) - length
        if states is not None and used > 0:
            for layer, own in zip(joined, states, strict=True):
                layer[:, row, :, before - used :] = own[:, :, :used]
    return tokens[:, before:], mask, joined
