"""A key-value cache that is allocated ahead, attended to only as far as it is filled, and whose rows split and end.

Dimensions: B rows of the batch, H key-value heads, T tokens, D head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

_FIRST_BLOCK = 64  # tokens allocated beyond the prompt; doubled when they are used up


class PreallocatedLayer(DynamicLayer):
    """The keys and values of one full-attention layer.

    The prompts come in by the first `update`; the first `batch_select_indices` moves them into a block with room for `max_rows`
    rows, and for more tokens (in steps, so that short completions do not pay for a long limit).
    """

    def __init__(self, *, max_rows: int, max_new_tokens: int) -> None:
        super().__init__()
        self.max_rows = max_rows
        self.max_new_tokens = max_new_tokens
        self.filled = 0
        self.rows = 0
        self.prompt_length = 0
        self._held: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # keys and values, [max_rows, H, capacity, D]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Takes [B, H, T, D] in and gives all keys and values so far."""
        start = self.filled
        self.filled += key_states.shape[-2]
        if not self.is_initialized:
            self._held, self.is_initialized = (key_states, value_states), True
            self.dtype, self.device = key_states.dtype, key_states.device
            self.rows, self.prompt_length = len(key_states), self.filled
            return self._held
        if self.filled > self._held[0].shape[-2]:
            self._move(start)
        keys, values = (held[: self.rows, :, : self.filled] for held in self._held)
        keys[:, :, start:] = key_states
        values[:, :, start:] = value_states
        return keys, values

    def _move(self, length: int) -> None:
        """The first `length` tokens of all rows go into fresh blocks with more room."""
        room = min(max(2 * (length - self.prompt_length), _FIRST_BLOCK), self.max_new_tokens)
        blocks = []
        for held in self._held:
            block = held.new_empty(self.max_rows, held.shape[1], self.prompt_length + room, held.shape[3])
            block[: self.rows, :, :length] = held[: self.rows, :, :length]
            blocks.append(block)
        self._held = (blocks[0], blocks[1])

    def get_seq_length(self) -> int:
        """Tokens held."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what the next query attends to."""
        return self.filled + query_length, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes what row indices[i] was; int64 [B'], with repetitions. Rows that stay where they are, are not copied."""
        if len(self._held[0]) < self.max_rows:
            self._move(self.filled)
        moved = torch.nonzero(indices != torch.arange(len(indices), device=indices.device)).flatten()
        if len(moved):
            source = indices[moved]
            for held in self._held:
                held[moved, :, : self.filled] = held[source, :, : self.filled]
        self.rows = len(indices)


def make_cache(model: Any, *, max_rows: int, max_new_tokens: int) -> Cache | None:
    """An empty cache for `model`, or None if a layer keeps what cannot be copied by rows (a recurrent state, say)."""
    layers = DynamicCache(config=model.config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
        return None

    def ours(layer: Any) -> Any:
        return PreallocatedLayer(max_rows=max_rows, max_new_tokens=max_new_tokens) if type(layer) is DynamicLayer else layer

    return Cache(layers=[ours(layer) for layer in layers])
