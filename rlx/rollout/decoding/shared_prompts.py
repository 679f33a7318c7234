"""Attention of rows that continue the same prompts: the keys and values of a prompt are held, and read, once for all of them.

A row attends to its prompt and to its own tokens apart, each with a softmax of its own; the two are joined by their sums of
exponentials, which gives the softmax over both (Hydragen, arXiv:2402.05099, section 3.1).

Dimensions: P prompts, W the most rows of a prompt, R rows, K key-value heads, Q queries of a key-value head, A tokens of the
longest prompt, T own tokens so far, D head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MIN_ROWS, _MIN_LENGTH = 4, 32  # rows of a prompt, and tokens of the longest, from which it is faster


def shares_prompts(prompts: int, rows: int, length: int) -> bool:
    """Whether `rows` rows of `prompts` prompts, of which the longest has `length` tokens, attend faster to shared ones."""
    return rows >= _MIN_ROWS * prompts and length >= _MIN_LENGTH


class SharedPrompts:
    """The keys and values of prompts in all layers, and which rows continue which."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], mask: Tensor | None) -> None:
        """layers: keys and values [P, K, A, D] of each. mask: [P, 1, 1, A], added to the scores; None where nothing is padding.

        At first row i continues prompt i.
        """
        self.layers = [(keys.contiguous(), values.contiguous()) for keys, values in layers]
        self.mask = mask
        count = len(self.layers[0][0])
        self._assign(torch.arange(count, device=self.layers[0][0].device), count)

    def select(self, rows: Tensor) -> None:
        """Row i becomes the former row rows[i]; int64 [R]. Prompts without rows are given up once they are half of all."""
        of_row = self.of_row[rows]
        continued, of_continued = torch.unique(of_row, return_inverse=True)
        count = len(self.layers[0][0])
        if 2 * len(continued) <= count:
            self.layers = [(keys[continued], values[continued]) for keys, values in self.layers]
            self.mask = None if self.mask is None else self.mask[continued]
            of_row, count = of_continued, len(continued)
        self._assign(of_row, count)

    def _assign(self, of_row: Tensor, count: int) -> None:
        """Row i continues prompt of_row[i], of `count` prompts: the places [P * W] of the rows by prompts, and back [R]."""
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
        """[R, K, Q, D], for query [R, K, Q, D] and own keys and values [R, K, T, D], of rows in their latest order."""
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
        """The keys and values [K, A', D] of the prompt of a row, without padding."""
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
