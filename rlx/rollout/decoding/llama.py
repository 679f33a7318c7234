"""Decoding of Llama and Qwen2 models directly from their weights: the arithmetic of transformers without its modules.

On a CPU, a token of a small model costs less than the Python overhead of the modules. rlx.rollout.decoding.probe tests whether a
model decodes correctly this way before it is used.

Dimensions: P prompts, B rows of the batch, T tokens, F tokens cached so far, H hidden size, N heads, K key-value heads, D head
dimension, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlx.data.sequences import Tokens
from rlx.errors import RlxError
from rlx.policy.adapter import linear_parts
from rlx.policy.products import linear_of
from rlx.rollout.decoding.forward import PreallocatedLayer, begin, laid_out, row_states

_KINDS = ("LlamaForCausalLM", "Qwen2ForCausalLM")


def supports_llama_forward(model: Any) -> bool:
    """Whether `model` is a float Llama or Qwen2 of linear layers, with or without adapters, without hooks or replaced modules."""
    if type(model).__name__ not in _KINDS or model.dtype not in (torch.float32, torch.float64):
        return False
    if any("forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return False
    plain = all(linear_parts(layer) is not None for layer in _linears(model))
    return plain and type(model.model.embed_tokens) is nn.Embedding and model.config.hidden_act == "silu"


def _linears(model: Any) -> Iterator[nn.Module]:
    yield model.lm_head
    for block in model.model.layers:
        attention, mlp = block.self_attn, block.mlp
        yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)


class LlamaForward:
    """Prompts padded on the left, each computed once; then one token for each row and step, with the cache.

    shares_prompts: whether the rows of a prompt attend to one copy of its keys and values; None: if that is faster.
    """

    def __init__(self, model: Any, *, shares_prompts: bool | None = None) -> None:
        self.model = model
        self.shares_prompts = shares_prompts
        config = model.config
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.scale = model.model.layers[0].self_attn.scaling
        found = {layer: linear_parts(layer) for layer in _linears(model)}
        self.parts = {layer: parts for layer, parts in found.items() if parts is not None}
        if len(self.parts) < len(found):
            raise RlxError("an adapter was merged, or joined by another one, since it was tried that rlx can sample with it")

    def start(
        self, prompts: Sequence[Tokens], *, max_rows: int, max_new_tokens: int, past: Sequence[Tensor | None] = ()
    ) -> Tensor:
        """Logits [P, V] of the first completion token. max_rows: the most rows of any step. past: see `states`, one a prompt."""
        self.cache = [PreallocatedLayer(max_rows=max_rows, max_new_tokens=max_new_tokens) for _ in self.model.model.layers]
        tokens, mask, before = laid_out(prompts, past)
        tokens, mask = tokens.to(self.model.device), mask.to(self.model.device)
        self.rows, self.filled = mask.shape
        length = tokens.shape[1]
        if before:
            begin(self.cache, before, more=length)
        places = (mask.cumsum(dim=1) - 1).clamp_(min=0)[:, -length:]
        self.cos, self.sin = self._rotation(self.filled + max_new_tokens)
        self.positions = mask.sum(dim=1)
        self.mask = None
        causal = torch.ones(length, self.filled, dtype=torch.bool, device=mask.device).tril_(self.filled - length)
        seen = causal.expand(self.rows, 1, -1, -1)
        if not bool(mask.all()):
            whole = torch.cat([mask, mask.new_ones(self.rows, max_new_tokens)], dim=1)
            self.mask = self._additive(whole.bool())[:, None, None]
            # a padding position attends to itself, as a query without any key gives NaN
            own = torch.zeros_like(causal)
            own.diagonal(self.filled - length).fill_(True)
            seen = (seen & mask.bool()[:, None, None]) | own
        self.shared: SharedPrompts | None = None
        logits = self._forward(tokens, self.cos[places][:, None], self.sin[places][:, None], self._additive(seen))
        if shares_prompts(self.rows, max_rows, self.filled) if self.shares_prompts is None else self.shares_prompts:
            self._share(max_rows, max_new_tokens)
        return logits

    def _share(self, max_rows: int, max_new_tokens: int) -> None:
        """Store the states computed so far as shared prompts; from here on the cache holds only the rows' own tokens."""
        mask = None if self.mask is None else self.mask[..., : self.filled]
        self.shared = SharedPrompts([layer.held() for layer in self.cache], mask)
        self.cache = [PreallocatedLayer(max_rows=max_rows, max_new_tokens=max_new_tokens) for _ in self.cache]
        self.filled, self.mask = 0, None

    def states(self, row: int) -> Tensor | None:
        """The keys and values [L, 2, H, T, D] of a row, without padding."""
        if self.shared is None:
            return row_states(self.cache, row, None if self.mask is None else self.mask[row, 0, 0, : self.filled] == 0)
        whole = [torch.stack(self.shared.states(layer, row)) for layer in range(len(self.cache))]
        if not self.filled:
            return torch.stack(whole)
        own = [torch.stack(layer.states(row)) for layer in self.cache]
        return torch.cat([torch.stack(whole), torch.stack(own)], dim=-2)

    def step(self, parents: Tensor, tokens: Tensor) -> Tensor:
        """Logits [B', V] where row i continues the former row parents[i] with tokens[i]; both int64 [B']."""
        if len(parents) != self.rows or not torch.equal(parents, torch.arange(self.rows, device=parents.device)):
            self._select(parents)
        self.filled += 1
        cos, sin = (table[self.positions][:, None, None] for table in (self.cos, self.sin))
        self.positions = self.positions + 1
        return self._forward(tokens[:, None], cos, sin, None if self.mask is None else self.mask[..., : self.filled])

    def _select(self, rows: Tensor) -> None:
        if self.filled:
            for layer in self.cache:
                layer.batch_select_indices(rows)
        if self.shared is not None:
            self.shared.select(rows)
        self.rows = len(rows)
        self.positions = self.positions[rows]
        if self.mask is not None:
            self.mask = self.mask[rows]

    def _rotation(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [length, D] of the rotary embedding; sin is negated where the rotation subtracts the other half."""
        positions = torch.arange(length, device=self.model.device)[None]
        cos, sin = self.model.model.rotary_emb(torch.empty(0, dtype=self.model.dtype, device=self.model.device), positions)
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def _additive(self, seen: Tensor) -> Tensor:
        scores = torch.zeros(seen.shape, dtype=self.model.dtype, device=seen.device)
        return scores.masked_fill_(~seen, torch.finfo(scores.dtype).min)

    def _forward(self, tokens: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        body = self.model.model
        hidden = F.embedding(tokens, body.embed_tokens.weight)
        for number, block in enumerate(body.layers):
            hidden = hidden + self._attention(number, _normalised(block.input_layernorm, hidden), cos, sin, mask)
            normalised, mlp = _normalised(block.post_attention_layernorm, hidden), block.mlp
            gate = F.silu(self._linear(mlp.gate_proj, normalised), inplace=True)
            hidden = hidden + self._linear(mlp.down_proj, gate.mul_(self._linear(mlp.up_proj, normalised)))
        return self._linear(self.model.lm_head, _normalised(body.norm, hidden[:, -1]))

    def _linear(self, layer: Any, hidden: Tensor) -> Tensor:
        base, added = self.parts[layer]
        found: Tensor = linear_of(base)(hidden, base.weight, base.bias)
        return found if added is None else added.add_to(found.flatten(0, -2), hidden.flatten(0, -2)).view_as(found)

    def _attention(self, number: int, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        """The attention of a layer. hidden [B, T, H]; cos, sin [B, 1, T, D]; mask [B, 1, T, F], added to the scores."""
        attention, cache = self.model.model.layers[number].self_attn, self.cache[number]
        rows, length = hidden.shape[:2]

        def split(layer: nn.Module, heads: int) -> Tensor:
            return self._linear(layer, hidden).view(rows, length, heads, -1).transpose(1, 2)

        query = _rotated(split(attention.q_proj, self.heads), cos, sin)
        key = _rotated(split(attention.k_proj, self.key_heads), cos, sin)
        keys, values = cache.update(key, split(attention.v_proj, self.key_heads))
        if length > 1:
            out = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, scale=self.scale, enable_gqa=self.heads != self.key_heads
            )
        else:  # heads that share keys become several queries of one head, so that no key is repeated
            grouped = query.reshape(rows, self.key_heads, self.heads // self.key_heads, -1)
            if self.shared is None:
                out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=self.scale)
            else:
                out = self.shared.attend(number, grouped, keys, values, self.scale)
            out = out.reshape(rows, self.heads, 1, -1)
        return self._linear(attention.o_proj, out.transpose(1, 2).reshape(rows, length, -1))


def _normalised(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """states [B, N, T, D] rotated by their positions; sin with signs, as `_rotation` returns it."""
    return (states * cos).addcmul_(states.roll(states.shape[-1] // 2, dims=-1), sin)


# Attention of rows that continue the same prompts: the keys and values of a prompt are stored and read once for all its rows.
#
# A row attends to its prompt and to its own tokens separately, each with its own softmax; the two are combined by their sums of
# exponentials, which gives the softmax over both (Hydragen, arXiv:2402.05099, section 3.1).
#
# Dimensions: P prompts, W the most rows per prompt, R rows, K key-value heads, Q queries per key-value head, A tokens of the
# longest prompt, T own tokens so far, D head dimension.


_MIN_ROWS, _MIN_LENGTH = 4, 32  # rows per prompt, and tokens of the longest prompt, from which sharing is faster


def shares_prompts(prompts: int, rows: int, length: int) -> bool:
    """Whether sharing is faster for `rows` rows of `prompts` prompts, the longest of which has `length` tokens."""
    return rows >= _MIN_ROWS * prompts and length >= _MIN_LENGTH


class SharedPrompts:
    """The keys and values of prompts in all layers, and which rows continue which prompt."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], mask: Tensor | None) -> None:
        """layers: keys and values [P, K, A, D] of each. mask: [P, 1, 1, A], added to the scores; None without padding.

        Initially row i continues prompt i.
        """
        self.layers = [(keys.contiguous(), values.contiguous()) for keys, values in layers]
        self.mask = mask
        count = len(self.layers[0][0])
        self._assign(torch.arange(count, device=self.layers[0][0].device), count)

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row rows[i]; int64 [R]. Prompts without rows are dropped once they are half of all."""
        of_row = self.of_row[rows]
        continued, of_continued = torch.unique(of_row, return_inverse=True)
        count = len(self.layers[0][0])
        if 2 * len(continued) <= count:
            self.layers = [(keys[continued], values[continued]) for keys, values in self.layers]
            self.mask = None if self.mask is None else self.mask[continued]
            of_row, count = of_continued, len(continued)
        self._assign(of_row, count)

    def _assign(self, of_row: Tensor, count: int) -> None:
        """Let row i continue prompt of_row[i], out of `count`; build the map from places [P * W] to rows, and back [R]."""
        self.of_row = of_row
        order = torch.argsort(of_row, stable=True)
        rows_of = torch.bincount(of_row, minlength=count)
        self.width = int(rows_of.max())
        before = torch.cumsum(rows_of, dim=0) - rows_of
        sorted_prompts = of_row[order]
        places = sorted_prompts * self.width + torch.arange(len(order), device=order.device) - before[sorted_prompts]
        self.by_prompt = of_row.new_zeros(count * self.width).scatter_(0, places, order)  # places without a row repeat row 0
        self.back = torch.empty_like(order).scatter_(0, order, places)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Attention output [R, K, Q, D] for query [R, K, Q, D] and own keys and values [R, K, T, D], rows in current order."""
        rows, heads, queries, size = query.shape
        query = query * scale
        prompt_keys, prompt_values = self.layers[layer]
        prompts = len(prompt_keys)
        asked = query.reshape(rows, -1).index_select(0, self.by_prompt)
        asked = asked.view(prompts, self.width, heads, queries, size).transpose(1, 2).reshape(prompts, heads, -1, size)

        def by_row(found: Tensor) -> Tensor:
            apart = found.view(prompts, heads, self.width, queries, -1).transpose(1, 2)
            return apart.reshape(prompts * self.width, -1).index_select(0, self.back).view(rows, heads, queries, -1)

        of_prompt, prompt_total = (by_row(found) for found in _attention(asked, prompt_keys, prompt_values, self.mask))
        of_own, own_total = _attention(query, keys, values, None)
        return torch.lerp(of_own, of_prompt, torch.sigmoid(prompt_total - own_total))

    def states(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """The keys and values [K, A', D] of a row's prompt, without padding."""
        prompt = int(self.of_row[row])
        keys, values = (states[prompt] for states in self.layers[layer])
        if self.mask is None:
            return keys, values
        is_read = self.mask[prompt, 0, 0] == 0
        return keys[:, is_read], values[:, is_read]


def _attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The attention [B, K, Q, D] of scaled queries, and the logarithms [B, K, Q, 1] of their sums of exponentials."""
    scores = torch.matmul(query, keys.transpose(-1, -2))
    if mask is not None:
        scores = scores.add_(mask)
    largest = scores.amax(dim=-1, keepdim=True)
    weights = scores.sub_(largest).exp_()
    total = weights.sum(dim=-1, keepdim=True)
    return torch.matmul(weights, values).div_(total), total.log_().add_(largest)
