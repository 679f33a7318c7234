"""Attention of shared-prefix rows, branch by branch: no score is computed that a mask would hide.

Attention with a mask over a row that holds all completions of a prompt computes every score and then hides most of them. Here
each trunk attends to itself, and each branch to its trunk and itself.
Dimensions: P prompts, G completions of a prompt, T tokens of the row, A and R of the longest trunk and branch, N heads, D head
dimension, K key-value heads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.data.layout import Segments

NAME = "rlx_branched"
_current: ContextVar[tuple[Segments, Tensor]] = ContextVar("current")  # with the mask of the branches


@contextmanager
def branched_attention(model: Any, segments: Segments) -> Iterator[None]:
    """Within this context the model, which is given one row and its positions, attends branch by branch."""
    _register()
    config = model.config
    before = config._attn_implementation
    token = _current.set((segments, _additive(segments, model.dtype)))
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _current.reset(token)


def _additive(segments: Segments, dtype: torch.dtype) -> Tensor:
    """[P * G, 1, R, A + R], or [1, 1, R, A + R] where all are the same: added to the scores of the branches."""
    scores = torch.zeros(segments.visible.shape, dtype=dtype, device=segments.visible.device)
    scores.masked_fill_(~segments.visible, torch.finfo(dtype).min)
    return scores[:, None] if len(scores) == 1 else scores.repeat_interleave(segments.branches.shape[1], dim=0)[:, None]


def attend(
    _module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """[1, T, N, D] of query [1, N, T, D], key and value [1, K, T, D]: an attention function of transformers."""
    asked = [name for name in ("sliding_window", "softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]
    if asked:
        raise NotImplementedError(f"attention branch by branch does not support {asked[0]}")
    segments, mask = _current.get()
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout, "enable_gqa": query.shape[1] != key.shape[1]}
    rows = [states[0].transpose(0, 1) for states in (query, key, value)]  # [T, N or K, D]
    trunk, keys, values = (_gathered(states, segments.trunks) for states in rows)
    found = [_flat(F.scaled_dot_product_attention(trunk, keys, values, is_causal=True, **options))]
    if segments.branches.shape[-1]:
        branch, own_keys, own_values = (_gathered(states, segments.branches.flatten(0, 1)) for states in rows)
        group = segments.branches.shape[1]
        keys = torch.cat([_repeated(keys, group), own_keys], dim=-2)
        values = torch.cat([_repeated(values, group), own_values], dim=-2)
        found.append(_flat(F.scaled_dot_product_attention(branch, keys, values, attn_mask=mask, **options)))
    out = F.embedding(segments.back, torch.cat(found))
    return out.view(1, len(out), query.shape[1], -1), None


def _gathered(states: Tensor, places: Tensor) -> Tensor:
    """[B, N, L, D] of states [T, N, D] at places [B, L]. An embedding look-up adds up gradients in a fixed order."""
    found = F.embedding(places, states.reshape(len(states), -1))
    return found.view(*places.shape, *states.shape[1:]).transpose(1, 2)


def _repeated(states: Tensor, times: int) -> Tensor:
    """[B * times, N, L, D]: each of states [B, N, L, D] repeated `times` times."""
    return states[:, None].expand(-1, times, -1, -1, -1).flatten(0, 1)


def _flat(out: Tensor) -> Tensor:
    """[B * L, N * D] of out [B, N, L, D]."""
    return out.transpose(1, 2).flatten(0, 1).flatten(1)


@functools.cache
def _register() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
