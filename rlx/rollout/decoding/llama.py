"""Decoding of Llama and Qwen2 models straight from their weights: the arithmetic of transformers without its modules.

On a CPU a token of a small model costs less than the Python of its modules. Whether a model decodes correctly this way is tested
before it is used (rlx.rollout.decoding.probe).

Dimensions: P prompts, B rows of the batch, T tokens, F tokens held so far, H hidden size, N heads, K key-value heads, D head
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
from rlx.rollout.decoding.forward import PreallocatedLayer, begin, row_states
from rlx.rollout.decoding.past import laid_out
from rlx.rollout.decoding.shared_prompts import SharedPrompts, shares_prompts

_KINDS = ("LlamaForCausalLM", "Qwen2ForCausalLM")


def supports_llama_forward(model: Any) -> bool:
    """Whether `model` is a float Llama or Qwen2 of linear layers, with adapters or without, and no hooks or replaced modules."""
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

    shares_prompts: the rows of a prompt attend to one copy of its keys and values; None: where that is faster.
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
            # a padding position attends to itself: a query without any key gives NaN
            own = torch.zeros_like(causal)
            own.diagonal(self.filled - length).fill_(True)
            seen = (seen & mask.bool()[:, None, None]) | own
        self.shared: SharedPrompts | None = None
        logits = self._forward(tokens, self.cos[places][:, None], self.sin[places][:, None], self._additive(seen))
        if shares_prompts(self.rows, max_rows, self.filled) if self.shares_prompts is None else self.shares_prompts:
            self._share(max_rows, max_new_tokens)
        return logits

    def _share(self, max_rows: int, max_new_tokens: int) -> None:
        """Hold what was read as the prompts of all rows; the cache is of their own tokens from here on."""
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
        """Of a layer; hidden [B, T, H]; cos, sin [B, 1, T, D]; mask [B, 1, T, F], added to the scores."""
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
        else:  # heads that share keys are treated as several queries of one head, so that no key is repeated
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
