"""Choosing the next token: truncation of a distribution and inversion of its cumulative distribution function.

Dimensions: B rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ELEMENTS_AT_ONCE = 1 << 24  # B * V looked at in one piece; bounds the memory of the float64 sums


def truncated(probabilities: Tensor, *, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """[B, V] with the tokens set to 0 that are cut off; the rest is not renormalised.

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


def invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """int64 [B]: the first token at which the running sum over token ids, in float64, exceeds `uniform` times the whole sum.

    probabilities: [B, V], not negative, any sum above 0; uniform: float64 [B] in [0, 1). A token of probability 0 is never
    chosen. The order of the sum is that of the token ids, so the choice does not depend on the other rows.
    """
    running = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = running[:, -1]
    threshold = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(running, threshold[:, None], right=True).squeeze(1)
    return tokens.clamp_(max=probabilities.shape[-1] - 1)  # where the logits are no numbers; the caller looks for those


def choose(
    logits: Tensor,
    uniform: Tensor | None,
    *,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Tokens int64 [B] and their log-probabilities [B] under log_softmax(logits / temperature), before any truncation.

    logits: [B, V]; uniform: float64 [B], or None for the likeliest token.
    """
    rows = max(1, _ELEMENTS_AT_ONCE // logits.shape[-1])
    if len(logits) > rows:
        parts = [None] * -(-len(logits) // rows) if uniform is None else uniform.split(rows)
        pieces = [
            choose(piece, part, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
            for piece, part in zip(logits.split(rows), parts, strict=True)
        ]
        return torch.cat([tokens for tokens, _ in pieces]), torch.cat([logprobs for _, logprobs in pieces])
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    logprobs = torch.log_softmax(logits, dim=-1)
    if uniform is None:
        tokens = logits.argmax(dim=-1)
    else:
        probabilities = logprobs.exp()
        if top_k is not None or top_p is not None or min_p is not None:
            probabilities = truncated(probabilities, top_k=top_k, top_p=top_p, min_p=min_p)
        tokens = invert(probabilities, uniform)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(1)
