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

    The prompts come in by the first `update`, once each; `batch_repeat_interleave` then copies them for the completions of each prompt
    into a block with room for `max_new_tokens` more (in steps, so that short completions do not pay for a long limit).
    """

    def __init__(self, max_new_tokens: int, **_: Any) -> None:
        super().__init__()
        self.max_new_tokens = max_new_tokens
        self.filled = 0
        self.prompt_length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Takes [B, H, T, D] in and gives all keys and values so far."""
        new = key_states.shape[-2]
        if not self.is_initialized:
            self.keys, self.values = key_states, value_states
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self.filled = self.prompt_length = new
            return key_states, value_states
        start, self.filled = self.filled, self.filled + new
        if self.filled > self.keys.shape[-2]:
            self._allocate(self.keys[:, :, :start], self.values[:, :, :start], repeats=1)
        keys, values = self.keys[:, :, : self.filled], self.values[:, :, : self.filled]
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def _allocate(self, keys: Tensor, values: Tensor, *, repeats: int) -> None:
        """Moves [B, H, T, D] into a fresh block with every row `repeats` times and room for more tokens."""
        batch, heads, length, _ = keys.shape
        room = min(max(2 * (length - self.prompt_length), _FIRST_BLOCK), self.max_new_tokens)
        capacity = max(self.prompt_length + room, length)
        blocks = []
        for states in (keys, values):
            block = states.new_empty(batch, repeats, heads, capacity, states.shape[-1])
            block[:, :, :, :length] = states[:, None]
            blocks.append(block.view(batch * repeats, heads, capacity, states.shape[-1]))
        self.keys, self.values = blocks

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next query attends to."""
        return self.filled + query_length, 0

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every row becomes `repeats` rows."""
        if self.is_initialized:
            self._allocate(self.keys, self.values, repeats=repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the rows `indices`: int64 [B']. Rows that stay where they are, are not copied."""
        if not self.is_initialized:
            return
        moved = torch.nonzero(indices != torch.arange(len(indices), device=indices.device)).flatten()
        if len(moved):
            source = indices[moved]
            for states in (self.keys, self.values):
                states[moved, :, : self.filled] = states[source, :, : self.filled]
        self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]


def make_cache(model: Any, *, max_new_tokens: int) -> Cache | None:
    """An empty cache for `model`, or None if it has layers whose state cannot be copied or shrunk by rows (a recurrent state, say)."""
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
