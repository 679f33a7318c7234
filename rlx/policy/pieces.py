"""Token statistics from logits that are computed piece by piece, so that [N, V] never exists, neither forward nor backward.

A vocabulary of 150,000 makes logits the largest tensors of an update. The backward pass computes the logits of a piece again.
Where the head is frozen and only log-probabilities are asked for, the forward pass keeps their gradient by the hidden states.
Dimensions: N completion tokens, n of a piece, H hidden size, V vocabulary, K statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.policy.statistics import distribution_statistics

ELEMENTS = 1 << 25  # of the logits of a piece; 128 MiB in float32. Fewer logits are computed at once


@dataclass(frozen=True, eq=False)
class HeadInput:
    """What the language-model head reads and how it computes logits.

    hidden: [N, H]; weight: [V, H]; bias: [V] or None. autocast: makes a new autocast context, the one that the model runs under.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    autocast: Callable[[], AbstractContextManager[Any]]

    def logits(self, rows: slice) -> Tensor:
        """[n, V] logits of the tokens `rows`, in float32 (float64 if the weights are), without a gradient."""
        with torch.no_grad(), self.autocast():
            logits = F.linear(self.hidden[rows], self.weight, self.bias)
        return logits if logits.dtype == torch.float64 else logits.float()


class HasLogits(Protocol):
    """A policy or a reference."""

    def logits(self, sequences: Sequences) -> Tensor:
        """[N, V] logits that predict each completion token."""

    def head_input(self, sequences: Sequences) -> HeadInput:
        """What the head reads to predict each completion token, for logits in pieces."""


def is_large(num_tokens: int, vocabulary: int) -> bool:
    """Whether logits [num_tokens, vocabulary] are computed in pieces."""
    return num_tokens * vocabulary > ELEMENTS


def statistics_in_pieces(
    given: HeadInput, targets: Tensor, *, names: Sequence[str], temperature: float, reference: HeadInput | None = None
) -> dict[str, Tensor]:
    """Name -> [N]: token_logprobs of `targets` [N], and the statistics `names`, of softmax(logits / temperature).

    They have a gradient with respect to the hidden states, the weight and the bias. reference: for the KLs; it gets none.
    """
    bias = torch.empty(0) if given.bias is None else given.bias
    request = _Request(given, targets, tuple(names), temperature, reference, torch.is_grad_enabled())
    values = _Pieces.apply(request, given.hidden, given.weight, bias)  # type: ignore[no-untyped-call]
    return dict(zip(("token_logprobs", *names), values, strict=True))


@dataclass(frozen=True, eq=False)
class _Request:
    """The arguments of statistics_in_pieces. has_gradient: whether a backward pass can follow."""

    given: HeadInput
    targets: Tensor
    names: tuple[str, ...]
    temperature: float
    reference: HeadInput | None
    has_gradient: bool

    def pieces(self) -> list[slice]:
        """The tokens of each piece."""
        size = max(1, ELEMENTS // len(self.given.weight))
        return [slice(start, start + size) for start in range(0, len(self.targets), size)]

    def statistics(self, logits: Tensor, rows: slice) -> list[Tensor]:
        """K tensors [n] of logits [n, V]."""
        if not self.names:
            scaled = logits if self.temperature == 1.0 else logits / self.temperature
            return [scaled.gather(-1, self.targets[rows, None])[:, 0] - scaled.logsumexp(-1)]
        logprobs = F.log_softmax(logits / self.temperature, dim=-1)
        theirs = None
        if self.reference is not None:
            theirs = F.log_softmax(self.reference.logits(rows).to(logits.device) / self.temperature, dim=-1)
        return [
            logprobs.gather(-1, self.targets[rows, None])[:, 0],
            *distribution_statistics(logprobs, self.names, reference=theirs).values(),
        ]

    def logits_gradient(self, logits: Tensor, gradients: Sequence[Tensor], rows: slice) -> Tensor:
        """[n, V] the gradient of the logits from those of the statistics; `logits` may be overwritten."""
        if not self.names:  # the gradient of a log-probability is one-hot minus softmax
            scale = (gradients[0][rows] / self.temperature)[:, None]
            lost = F.softmax(logits if self.temperature == 1.0 else logits.div_(self.temperature), dim=-1).mul_(-scale)
            return lost.scatter_add_(-1, self.targets[rows, None], scale)
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            heads = self.statistics(leaf, rows)
            return torch.autograd.grad(heads, leaf, [gradient[rows] for gradient in gradients])[0]

    def hidden_gradient(self, of_logits: Tensor) -> Tensor:
        """[n, H] the gradient of the hidden states from that of the logits [n, V]."""
        with torch.no_grad(), self.given.autocast():
            return (of_logits.to(self.given.weight.dtype) @ self.given.weight).to(self.given.hidden.dtype)


class _Pieces(torch.autograd.Function):
    """K statistics [N] of hidden states, a weight and a bias; see statistics_in_pieces."""

    @staticmethod
    def forward(context: Any, request: _Request, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        context.request = request
        _, wants_hidden, wants_weight, wants_bias = context.needs_input_grad
        parts, directions = [], []
        only_hidden = wants_hidden and not (wants_weight or wants_bias)
        ones = [torch.ones(len(hidden), device=hidden.device, dtype=torch.float64 if weight.dtype == torch.float64 else None)]
        for rows in request.pieces():
            logits = request.given.logits(rows)
            parts.append(request.statistics(logits, rows))
            if only_hidden and not request.names and request.has_gradient:
                directions.append(request.hidden_gradient(request.logits_gradient(logits, ones, rows)))
        context.save_for_backward(hidden, weight, bias, torch.cat(directions) if directions else None)
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        request: _Request = context.request
        hidden, weight, bias, direction = context.saved_tensors
        if direction is not None:  # [N, H], the gradient of each log-probability
            return None, direction * gradients[0][:, None].to(direction.dtype), None, None
        _, wants_hidden, wants_weight, wants_bias = context.needs_input_grad
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight) if wants_weight else None
        of_bias = torch.zeros_like(bias) if wants_bias else None
        for rows in request.pieces():
            of_logits = request.logits_gradient(request.given.logits(rows), gradients, rows)
            if of_hidden is not None:
                of_hidden[rows] = request.hidden_gradient(of_logits)
            with request.given.autocast():
                if of_weight is not None and torch.is_autocast_enabled(weight.device.type):
                    of_weight.add_(of_logits.t() @ hidden[rows])
                elif of_weight is not None:
                    of_weight.addmm_(of_logits.to(weight.dtype).t(), hidden[rows])
            if of_bias is not None and request.given.bias is not None:
                of_bias.add_(of_logits.sum(0).to(bias.dtype))
        return None, of_hidden, of_weight, of_bias
