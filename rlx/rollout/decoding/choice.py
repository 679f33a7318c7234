"""Choosing the next token: truncation of a distribution and inversion of its cumulative distribution function.

Dimensions: R distributions, B tokens drawn from them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24  # R * V looked at in one piece; bounds the memory of the float64 sums


def truncated(probabilities: Tensor, *, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """[R, V] with the tokens set to 0 that are cut off; the rest is not renormalised.

    In this order: top_k keeps the k likeliest (of equal ones the smaller token ids), top_p the smallest set of likeliest tokens
    whose share of what is left reaches top_p, min_p the tokens at least min_p times as likely as the likeliest.
    The likeliest always stays.
    """
    if min_p is not None:
        floor = min_p * probabilities.amax(dim=-1, keepdim=True)
    if top_k is not None or top_p is not None:
        ordered, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
        if top_k is not None:
            ordered[:, top_k:] = 0.0
        if top_p is not None:
            before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
            total = ordered.sum(dim=-1, keepdim=True, dtype=torch.float64)
            ordered = ordered.masked_fill(before >= top_p * total, 0.0)
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, ordered)
    if min_p is not None:
        probabilities = probabilities.masked_fill(probabilities < floor, 0.0)
    return probabilities


def invert(probabilities: Tensor, rows: Tensor, uniform: Tensor) -> Tensor:
    """int64 [B]: the first token at which the running sum over token ids, in float64, exceeds `uniform` times the whole sum.

    probabilities: [R, V], not negative, any sum above 0; rows: int64 [B], the distribution that each token is drawn from;
    uniform: float64 [B] in [0, 1). A token of probability 0 is never chosen. The order of the sum is that of the token ids, so a
    choice does not depend on the others.
    """
    running = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = running[:, -1]
    below = torch.nextafter(total, torch.zeros_like(total))
    order = torch.argsort(rows, stable=True)
    ordered = rows[order]
    column = torch.empty_like(rows)  # each draw's place among those of its row, so that one search serves all rows
    column[order] = torch.arange(len(rows), device=rows.device) - torch.searchsorted(ordered, ordered)
    thresholds = running.new_zeros(len(running), int(column.max()) + 1)
    thresholds[rows, column] = torch.minimum(uniform * total[rows], below[rows])
    tokens = torch.searchsorted(running, thresholds, right=True)[rows, column]
    return tokens.clamp_(max=probabilities.shape[-1] - 1)  # where the logits are no numbers; the caller looks for those


def choose(
    logits: Tensor,
    rows: Tensor,
    uniform: Tensor | None,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B] and their log-probabilities [B] under log_softmax(logits / temperature), before any truncation.

    logits: [R, V]; rows: int64 [B], the row of logits that each token is chosen by; uniform: float64 [B], None for greedy.
    """
    limits = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
    size = max(1, _ELEMENTS_AT_ONCE // logits.shape[-1])
    if len(logits) <= size:
        return _choose(logits, rows, uniform, temperature, limits)
    tokens, logprobs = torch.empty_like(rows), torch.empty(len(rows), device=logits.device)
    for first in range(0, len(logits), size):
        inside = torch.nonzero((rows >= first) & (rows < first + size)).flatten()
        part = None if uniform is None else uniform[inside]
        tokens[inside], chosen = _choose(logits[first : first + size], rows[inside] - first, part, temperature, limits)
        logprobs[inside] = chosen.to(logprobs.dtype)
    return tokens, logprobs


def _choose(
    logits: Tensor, rows: Tensor, uniform: Tensor | None, temperature: float, limits: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    if uniform is None:
        tokens = logits.argmax(dim=-1)[rows]
    else:
        probabilities = logprobs.exp()
        if any(limit is not None for limit in limits.values()):
            probabilities = truncated(probabilities, **limits)
        tokens = invert(probabilities, rows, uniform)
    return tokens, logprobs[rows, tokens]
