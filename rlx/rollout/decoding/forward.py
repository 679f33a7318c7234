"""Next-token logits of growing sequences: with a key-value cache, or without one for models that do not support it.

Both have the same methods: `start`, with one row per prompt, and `step`, which extends rows by one token each; a row may split
into several with different continuations, or end. `states` returns the keys and values of a row, from which another batch can
continue; None without a cache. Dimensions: P prompts, B rows of the batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from rlx.data.sequences import Tokens

_FIRST_BLOCK = 64  # tokens allocated beyond the prompt; doubled when they are used up


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """The keys and values of one full-attention layer: preallocated, read only as far as filled, with rows that split and end.

    The first `update` brings the prompts, or the part of them that `begin` did not receive; the first `batch_select_indices`
    moves them into a block with room for `max_rows` rows and more tokens. The block grows in steps, so that short completions
    do not allocate memory for a high token limit.
    """

    def __init__(self, *, max_rows: int, max_new_tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.max_rows = max_rows
        self.max_new_tokens = max_new_tokens
        self.filled = 0
        self.rows = 0
        self.prompt_length = 0
        self._held: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))  # keys and values, [max_rows, H, capacity, D]

    def begin(self, keys: Tensor, values: Tensor, *, more: int) -> None:
        """Start with known keys and values [B, H, T, D]; `more` tokens of the prompts follow with the first `update`."""
        self._held, self.is_initialized = (keys, values), True
        self.dtype, self.device = keys.dtype, keys.device
        self.rows, self.filled = len(keys), keys.shape[-2]
        self.prompt_length = self.filled + more

    def held(self) -> tuple[Tensor, Tensor]:
        """The keys and values [B, H, T, D] of all rows."""
        return self._held[0][: self.rows, :, : self.filled], self._held[1][: self.rows, :, : self.filled]

    def states(self, row: int) -> tuple[Tensor, Tensor]:
        """The keys and values [H, T, D] of a row."""
        return self._held[0][row, :, : self.filled], self._held[1][row, :, : self.filled]

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append [B, H, T, D]; returns all keys and values so far."""
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
        """Copy the first `length` tokens of all rows into new blocks with more room."""
        room = min(max(2 * (length - self.prompt_length), _FIRST_BLOCK), self.max_new_tokens)
        blocks = []
        for held in self._held:
            block = held.new_empty(self.max_rows, held.shape[1], self.prompt_length + room, held.shape[3])
            block[: self.rows, :, :length] = held[: self.rows, :, :length]
            blocks.append(block)
        self._held = (blocks[0], blocks[1])

    def get_seq_length(self) -> int:
        """The number of tokens in the cache."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next query attends to."""
        return self.filled + query_length, 0

    def batch_select_indices(self, indices: Tensor) -> None:
        """Row i becomes the former row indices[i]; int64 [B'], may repeat. Rows that keep their place are not copied."""
        if len(self._held[0]) < self.max_rows:
            self._move(self.filled)
        moved = torch.nonzero(indices != torch.arange(len(indices), device=indices.device)).flatten()
        if len(moved):
            source = indices[moved]
            for held in self._held:
                held[moved, :, : self.filled] = held[source, :, : self.filled]
        self.rows = len(indices)


def make_cache(model: Any, *, max_rows: int, max_new_tokens: int) -> Cache | None:
    """An empty cache for `model`; None if a layer has a state that cannot be copied by rows, such as a recurrent state."""
    layers = DynamicCache(config=model.config).layers
    if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer) for layer in layers):
        return None

    def ours(layer: Any) -> Any:
        return PreallocatedLayer(max_rows=max_rows, max_new_tokens=max_new_tokens) if type(layer) is DynamicLayer else layer

    return Cache(layers=[ours(layer) for layer in layers])


class Forward(Protocol):
    """A model while it decodes one batch."""

    def start(
        self, prompts: Sequence[Tokens], *, max_rows: int, max_new_tokens: int, past: Sequence[Tensor | None] = ()
    ) -> Tensor: ...
    def step(self, parents: Tensor, tokens: Tensor) -> Tensor: ...
    def states(self, row: int) -> Tensor | None: ...


def accepted_arguments(model: Any) -> frozenset[str]:
    """The argument names of the model's forward."""
    return frozenset(inspect.signature(model.forward).parameters)


def begin(layers: Sequence[Any], states: Sequence[Tensor], *, more: int) -> None:
    """Start the cache with states [2, P, H, F, D] of each layer; `more` tokens of the prompts follow."""
    for layer, (keys, values) in zip(layers, states, strict=True):
        layer.begin(keys, values, more=more)


def row_states(layers: Sequence[Any], row: int, is_read: Tensor | None) -> Tensor | None:
    """The keys and values [L, 2, H, T, D] of a row in all layers; None if the layers' shapes differ.

    is_read: bool [T], which tokens are not padding; None: all.
    """
    held = [layer.states(row) for layer in layers]
    if len({part.shape for pair in held for part in pair}) > 1:
        return None
    states = torch.stack([torch.stack(pair) for pair in held])
    return states if is_read is None else states[:, :, :, is_read]


class CachedForward:
    """Prompts padded on the left, each computed once; then one token for each row and step, with the cache.

    The mask of a step is a view of a mask created once. With `prepared_mask` it is the four-dimensional mask that attention adds
    to its scores, which saves the model from creating one in every step; without, it is the two-dimensional mask that every
    model supports.
    """

    def __init__(self, model: Any, *, prepared_mask: bool) -> None:
        self.model = model
        self.arguments = accepted_arguments(model)
        self.prepared_mask = prepared_mask

    def start(
        self, prompts: Sequence[Tokens], *, max_rows: int, max_new_tokens: int, past: Sequence[Tensor | None] = ()
    ) -> Tensor:
        """Logits [P, V] of the first completion token. max_rows: the most rows in a step. past: one per prompt, see `states`."""
        cache = make_cache(self.model, max_rows=max_rows, max_new_tokens=max_new_tokens)
        if cache is None:
            raise NotImplementedError("its layers have a state that cannot be copied by rows")
        self.cache = cache
        tokens, mask, before = laid_out(prompts, past)
        tokens, mask = tokens.to(self.model.device), mask.to(self.model.device)
        self.rows, self.filled = mask.shape
        if before:
            begin(self.cache.layers, before, more=tokens.shape[1])
        ragged = bool(before) or not bool(mask.all())  # continued conversations always pass mask and positions, as the probe did
        arguments: dict[str, Any] = {"attention_mask": mask if ragged else None}
        if ragged and "position_ids" in self.arguments:
            arguments["position_ids"] = (mask.cumsum(dim=1) - 1).clamp_(min=0)[:, -tokens.shape[1] :]
        if "logits_to_keep" in self.arguments:
            arguments["logits_to_keep"] = 1
        self.mask = self._decoding_mask(mask, max_new_tokens) if ragged else None
        self.positions = mask.sum(dim=1, keepdim=True) if ragged and "position_ids" in self.arguments else None
        return self._forward(tokens, arguments)

    def states(self, row: int) -> Tensor | None:
        """The keys and values [L, 2, H, T, D] of a row, without padding; None if a layer stores them differently."""
        if any(type(layer) is not PreallocatedLayer for layer in self.cache.layers):
            return None
        is_read = None
        if self.mask is not None:
            own = self.mask[row, ..., : self.filled].flatten()
            is_read = own == 0 if self.prepared_mask else own != 0
        return row_states(self.cache.layers, row, is_read)

    def _decoding_mask(self, mask: Tensor, max_new_tokens: int) -> Tensor:
        """The mask [P, T + max_new_tokens], or [P, 1, 1, T + max_new_tokens], of which each step uses the filled part."""
        whole = torch.cat([mask, mask.new_ones(len(mask), max_new_tokens)], dim=1)
        if not self.prepared_mask:
            return whole
        dtype = self.model.dtype
        scores = torch.zeros(whole.shape, dtype=dtype, device=whole.device)
        return scores.masked_fill_(whole == 0, torch.finfo(dtype).min)[:, None, None]

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B', V] where row i continues the former row parents[i] with tokens[i]; both int64 [B']."""
        if len(parents) != self.rows or not torch.equal(parents, torch.arange(self.rows, device=parents.device)):
            self._select(parents)
        self.filled += 1
        arguments: dict[str, Any] = {}
        if self.mask is not None:
            arguments["attention_mask"] = self.mask[..., : self.filled]
        if self.positions is not None:
            arguments["position_ids"] = self.positions
        logits = self._forward(tokens[:, None], arguments)
        if self.positions is not None:
            self.positions = self.positions + 1
        return logits

    def _select(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.rows = len(rows)
        if self.mask is not None:
            self.mask = self.mask[rows]
        if self.positions is not None:
            self.positions = self.positions[rows]

    def _forward(self, tokens: Tensor, arguments: dict[str, Any]) -> Tensor:
        logits: Tensor = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True, **arguments).logits
        return logits[:, -1]


class PlainForward:
    """Recomputes the whole sequence for every token, padded on the right: slow, but correct for every causal model."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def start(
        self, prompts: Sequence[Tokens], *, max_rows: int, max_new_tokens: int, past: Sequence[Tensor | None] = ()
    ) -> Tensor:
        """Logits [P, V] of the first completion token."""
        tokens, mask = (tensor.to(self.model.device) for tensor in padded(prompts, left=False))
        self.lengths = mask.sum(dim=1)
        self.tokens = torch.cat([tokens, tokens.new_zeros(len(tokens), max_new_tokens)], dim=1)
        return self._forward()

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B', V] where row i continues the former row parents[i] with tokens[i]; both int64 [B']."""
        self.tokens, self.lengths = self.tokens[parents], self.lengths[parents]
        self.tokens[torch.arange(len(tokens), device=tokens.device), self.lengths] = tokens
        self.lengths = self.lengths + 1
        return self._forward()

    def states(self, row: int) -> Tensor | None:
        """None: nothing is cached."""
        return None

    def _forward(self) -> Tensor:
        width = int(self.lengths.max())
        mask = torch.arange(width, device=self.lengths.device) < self.lengths[:, None]
        logits: Tensor = self.model(input_ids=self.tokens[:, :width], attention_mask=mask.long(), use_cache=False).logits
        return logits[torch.arange(len(logits), device=logits.device), self.lengths - 1]


# Keys and values of conversations, kept between turns, so that a turn computes only those of its new tokens.
#
# Dimensions: L layers, H key-value heads, D head dimension, P conversations, B rows, T tokens.


@dataclass(eq=False)
class Past:
    """The keys and values that a policy computed for each conversation; its weights must not change meanwhile.

    budget: the most tokens whose keys and values are stored; conversations beyond it are recomputed.
    """

    budget: int
    _held: dict[Hashable, tuple[Tokens, Tensor]] = field(default_factory=dict)
    tokens: int = 0  # number of stored tokens

    def keep(self, name: Hashable, tokens: Tokens, states: Tensor) -> None:
        """Store the keys and values [L, 2, H, T, D] of a conversation's tokens, int64 [T], if there is room."""
        self.take(name, tokens[:0])
        if self.tokens + len(tokens) <= self.budget:
            self._held[name] = (tokens, states)
            self.tokens += len(tokens)

    def forget_others(self, names: Collection[Hashable]) -> None:
        """Drop the stored conversations that are not in `names`, as they have ended."""
        for name in self._held.keys() - set(names):
            self.tokens -= len(self._held.pop(name)[0])

    def holds(self, name: Hashable) -> bool:
        """Whether anything is stored for a conversation."""
        return name in self._held

    def take(self, name: Hashable, history: Tokens) -> Tensor | None:
        """Remove and return the states [L, 2, H, T, D] of the tokens with which `history` begins.

        The last token of `history` is excluded: it is computed again, for the logits after it. None if there are no others.
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
    """Tokens int64 [P, T], padded with 0, and mask int64 [P, T]."""
    width = max(len(prompt) for prompt in prompts)
    tokens = np.zeros((len(prompts), width), dtype=np.int64)
    mask = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        tokens[row, place] = prompt
        mask[row, place] = 1
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def laid_out(prompts: Sequence[Tokens], past: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Tokens int64 [P, T] still to compute, mask int64 [P, F + T], and for each layer states [2, P, H, F, D] already computed.

    Padding is only on the left: every row computes as many tokens as the row with the fewest known ones, and further known
    states are not used. There are no states if F is 0.
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
