"""A key-value cache that is allocated ahead, attended to only as far as it is filled, and shrinks as rows finish.

Dimensions: B rows (completions), H key-value heads, T tokens, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_FIRST_BLOCK = 64  # tokens allocated beyond the prompt; doubled when they are used up


class PreallocatedLayer(DynamicLayer):
    """The keys and values of one full-attention layer.

    The prompts come in by the first `update`, once each; `batch_repeat_interleave` then copies them for the completions of each
    prompt into a block with room for `max_new_tokens` more (in steps, so that short completions do not pay for a long limit).
    """

    def __init__(self, max_new_tokens: int) -> None:
        super().__init__()
        self.max_new_tokens = max_new_tokens
        self.filled = 0
        self.prompt_length = 0
        self._held: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # keys and values, [B, H, capacity, D]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Takes [B, H, T, D] in and gives all keys and values so far."""
        new = key_states.shape[-2]
        if not self.is_initialized:
            self._held, self.is_initialized = (key_states, value_states), True
            self.dtype, self.device = key_states.dtype, key_states.device
            self.filled = self.prompt_length = new
            return self._held
        start, self.filled = self.filled, self.filled + new
        if self.filled > self._held[0].shape[-2]:
            self._held = self._moved(start, repeats=1)
        keys, values = (held[:, :, : self.filled] for held in self._held)
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def _moved(self, length: int, *, repeats: int) -> tuple[Tensor, Tensor]:
        """The first `length` tokens in fresh blocks, every row `repeats` times, with room for more tokens."""
        room = min(max(2 * (length - self.prompt_length), _FIRST_BLOCK), self.max_new_tokens)
        capacity = max(self.prompt_length + room, length)
        blocks = []
        for held in self._held:
            batch, heads, _, dimension = held.shape
            block = held.new_empty(batch, repeats, heads, capacity, dimension)
            block[:, :, :, :length] = held[:, None, :, :length]
            blocks.append(block.view(batch * repeats, heads, capacity, dimension))
        return blocks[0], blocks[1]

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next query attends to."""
        return self.filled + query_length, 0

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row becomes `repeats` rows."""
        if self.is_initialized:
            self._held = self._moved(self.filled, repeats=repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`: int64 [B']. Rows that stay where they are, are not copied."""
        if not self.is_initialized:
            return
        moved = torch.nonzero(indices != torch.arange(len(indices), device=indices.device)).flatten()
        if len(moved):
            source = indices[moved]
            for held in self._held:
                held[moved, :, : self.filled] = held[source, :, : self.filled]
        self._held = (self._held[0][: len(indices)], self._held[1][: len(indices)])


def make_cache(model: Any, *, max_new_tokens: int) -> Cache | None:
    """An empty cache for `model`, or None if a layer keeps what cannot be copied or shrunk by rows (a recurrent state, say)."""
    layers = DynamicCache(config=model.config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
        return None
    return Cache(layers=[PreallocatedLayer(max_new_tokens) if type(layer) is DynamicLayer else layer for layer in layers])


def rows_to_keep(active: Tensor) -> Tensor:
    """int64 [B']: the rows where `active` (bool [B]) holds, ordered so that few move: the last ones fill the holes."""
    total = int(active.sum())
    keep = torch.arange(total, device=active.device)
    keep[~active[:total]] = torch.nonzero(active[total:]).flatten() + total
    return keep
