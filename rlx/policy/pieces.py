"""Token statistics from logits computed piece by piece, so that [N, V] never exists, in neither the forward nor backward pass.

With a vocabulary of 150,000, logits are the largest tensors of an update. Log-probabilities and entropies are summed over blocks
of the vocabulary, small enough to stay in a cache; other statistics need whole rows. The backward pass recomputes logits.
If the head is frozen and no entropy needs a gradient, the forward pass stores the gradient with respect to the hidden states.
Dimensions: N completion tokens, n of a piece, H hidden size, V vocabulary, v of a block, K statistics.
Paper: the sums over blocks are those of Wijmans et al. 2024, arXiv:2411.09009.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from rlx.data.sequences import Sequences
from rlx.policy.statistics import distribution_statistics

ELEMENTS = 1 << 25  # elements of a piece's logits, 128 MiB in float32; smaller logits are computed at once
CACHED = 1 << 21  # elements of a block's logits on a CPU, 8 MiB in float32
_ROWS = 4096  # rows of logits per block of the vocabulary
_NARROWEST = 256  # smallest number of columns of a block: narrower matrix products are slow
_SUMMED = frozenset({"entropy"})  # statistics that can be summed over blocks of the vocabulary


@dataclass(frozen=True, eq=False)
class HeadInput:
    """The input of the LM head, and how it computes logits.

    hidden: [N, H]; weight: [V, H]; bias: [V] or None. autocast: creates a new autocast context like the model's.
    linear: the head's matrix product, with the arguments of F.linear.
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    autocast: Callable[[], AbstractContextManager[Any]]
    linear: Callable[..., Tensor] = F.linear

    def logits(self, rows: slice, tokens: slice = slice(None)) -> Tensor:
        """[n, v] logits of vocabulary `tokens` at `rows`, in float32 (float64 if the weights are), detached."""
        bias = None if self.bias is None else self.bias[tokens]
        with torch.no_grad(), self.autocast():
            logits = self.linear(self.hidden[rows], self.weight[tokens], bias)
        return logits if logits.dtype == torch.float64 else logits.float()


class HasLogits(Protocol):
    """A policy or a reference."""

    def logits(self, sequences: Sequences) -> Tensor:
        """[N, V] logits that predict each completion token."""

    def head_input(self, sequences: Sequences) -> HeadInput:
        """The input of the head for each completion token, for computing logits in pieces."""


def is_large(num_tokens: int, vocabulary: int) -> bool:
    """Whether logits [num_tokens, vocabulary] are computed in pieces."""
    return num_tokens * vocabulary > ELEMENTS


def elements_at_once(names: frozenset[str], device: torch.device) -> int:
    """The number of elements of all logit-sized tensors that exist at once while a piece's statistics `names` are computed."""
    if names <= _SUMMED:
        return (2 + len(names)) * (CACHED if device.type == "cpu" else ELEMENTS)
    return 6 * ELEMENTS


def statistics_in_pieces(
    given: HeadInput, targets: Tensor, *, names: Sequence[str], temperature: float, reference: HeadInput | None = None
) -> dict[str, Tensor]:
    """Name -> [N]: token_logprobs of `targets` [N], and the statistics `names`, of softmax(logits / temperature).

    They have a gradient with respect to the hidden states, the weight and the bias. reference: for the KLs; it gets no gradient.
    """
    bias = torch.empty(0) if given.bias is None else given.bias
    request = _Request(given, targets, tuple(names), temperature, reference, torch.is_grad_enabled())
    function = _Blocks if set(names) <= _SUMMED else _Pieces
    values = function.apply(request, given.hidden, given.weight, bias)  # type: ignore[no-untyped-call]
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
        """The rows of each piece whose logits are computed whole."""
        return self._rows(ELEMENTS // len(self.given.weight))

    def row_pieces(self) -> list[slice]:
        """The rows of each piece whose logits are computed block by block."""
        return self._rows(_ROWS)

    def _rows(self, size: int) -> list[slice]:
        return [slice(start, start + max(1, size)) for start in range(0, len(self.targets), max(1, size))]

    def blocks(self, rows: slice) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
        """For each vocabulary block: (its tokens, scaled logits [n, v], whether it contains the target [n], where [n, 1])."""
        targets = self.targets[rows]
        elements = CACHED if targets.device.type == "cpu" else ELEMENTS
        vocabulary, width = len(self.given.weight), max(_NARROWEST, elements // max(1, len(targets)))
        for start in range(0, vocabulary, width):
            stop = min(vocabulary, start + width)
            logits = self.given.logits(rows, slice(start, stop))
            inside = (targets >= start) & (targets < stop)
            places = (targets - start).clamp(0, stop - start - 1)[:, None]
            yield slice(start, stop), logits if self.temperature == 1.0 else logits.div_(self.temperature), inside, places

    def summed(self, rows: slice, *, expects: bool) -> _Summed:
        """Sums over the vocabulary at these rows. expects: also compute gradients with respect to the hidden states."""
        hidden, weight = self.given.hidden[rows], self.given.weight
        dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
        highest = torch.full((len(hidden),), torch.finfo(dtype).min, dtype=dtype, device=hidden.device)
        others, chosen, moment = torch.zeros_like(highest), torch.zeros_like(highest), torch.zeros_like(highest)
        expected = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device) if expects else None
        for tokens, logits, inside, places in self.blocks(rows):
            chosen = torch.where(inside, logits.gather(1, places)[:, 0], chosen)
            higher = torch.maximum(highest, logits.amax(1))
            shrink = (highest - higher).exp()
            distance = logits.sub_(higher[:, None])
            weights = distance.exp() if self.names else distance.exp_()
            of_target = weights.gather(1, places)[:, 0]
            weights.scatter_(1, places, torch.where(inside, 0.0, of_target)[:, None])  # the target's share is added at the end
            if self.names:
                moment = shrink * (moment + (highest - higher) * others) + torch.einsum("nv,nv->n", weights, distance)
            others = others * shrink + weights.sum(1)
            if expected is not None:
                with self.given.autocast():
                    expected.mul_(shrink[:, None]).add_(self.given.linear(weights.to(weight.dtype), weight[tokens].t()))
            highest = higher
        own = (chosen - highest).exp()
        total = others + own
        log_sum = highest + total.log()
        entropy = total.log() - (moment + own * (chosen - highest)) / total if self.names else None
        direction = None
        if expected is not None:  # excludes the target from both terms, as they cancel if it is nearly certain
            away = weight[self.targets[rows]].to(dtype) * others[:, None] - expected
            direction = (away / (total * self.temperature)[:, None]).to(hidden.dtype)
        return _Summed(chosen - log_sum, log_sum, entropy, direction)

    def statistics(self, logits: Tensor, rows: slice) -> list[Tensor]:
        """K tensors [n] of logits [n, V]."""
        logprobs = F.log_softmax(logits / self.temperature, dim=-1)
        theirs = None
        if self.reference is not None:
            theirs = F.log_softmax(self.reference.logits(rows).to(logits.device) / self.temperature, dim=-1)
        return [
            logprobs.gather(-1, self.targets[rows, None])[:, 0],
            *distribution_statistics(logprobs, self.names, reference=theirs).values(),
        ]

    def logits_gradient(self, logits: Tensor, gradients: Sequence[Tensor], rows: slice) -> Tensor:
        """[n, V] the gradient of the logits from those of the statistics."""
        with torch.enable_grad():
            leaf = logits.requires_grad_()
            heads = self.statistics(leaf, rows)
            return torch.autograd.grad(heads, leaf, [gradient[rows] for gradient in gradients])[0]


@dataclass(frozen=True, eq=False)
class _Summed:
    """For n rows: logprobs of the targets, log_sum the logarithm of the sum of exponentials, entropy or None, all [n].

    direction: [n, H] the gradients of the log-probabilities with respect to the hidden states, or None.
    """

    logprobs: Tensor
    log_sum: Tensor
    entropy: Tensor | None
    direction: Tensor | None


class _HeadGradients:
    """Gradients of the hidden states, the weight and the bias, summed over pieces; None if not needed."""

    def __init__(self, given: HeadInput, hidden: Tensor, weight: Tensor, bias: Tensor, wants: Sequence[bool]) -> None:
        self._given, self._inputs = given, (hidden, weight)
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.hidden = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device) if wants[0] else None
        self.weight = torch.zeros_like(weight) if wants[1] else None
        self.bias = torch.zeros_like(bias) if wants[2] and given.bias is not None else None

    def add(self, of_logits: Tensor, rows: slice, tokens: slice, times: Tensor | None = None) -> None:
        """Add the contribution of the logits' gradient of_logits [n, v].

        times: the hidden states [n, H] of these rows, times a factor per row that of_logits does not include; see `multiply`.
        """
        hidden, weight = self._inputs[0][rows] if times is None else times, self._inputs[1][tokens]
        lost = of_logits.to(weight.dtype)
        with self._given.autocast():
            if self.hidden is not None:
                _add_product(self.hidden[rows], lost, weight, self._given.linear)
            if self.weight is not None:
                _add_product(self.weight[tokens], lost.t(), hidden.to(weight.dtype), self._given.linear)

    def multiply(self, rows: slice, factor: Tensor) -> None:
        """Multiply the gradients of the hidden states by the factor [n, 1] that every `add` at these rows left out."""
        if self.hidden is not None:
            self.hidden[rows].mul_(factor)

    def found(self) -> tuple[Tensor | None, ...]:
        """In the order of the inputs of `_Blocks`."""
        return None, None if self.hidden is None else self.hidden.to(self._inputs[0].dtype), self.weight, self.bias


def _add_product(total: Tensor, left: Tensor, right: Tensor, linear: Callable[..., Tensor]) -> None:
    """total += left @ right, in place where the dtypes allow it."""
    if linear is not F.linear:
        total.add_(linear(left, right.t()))
    elif total.dtype == left.dtype and not torch.is_autocast_enabled(total.device.type):
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


class _Blocks(torch.autograd.Function):
    """Log-probabilities [N], and entropies [N] if asked for, by blocks of the vocabulary; see statistics_in_pieces."""

    @staticmethod
    def forward(context: Any, request: _Request, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        context.request = request
        context.set_materialize_grads(False)
        _, wants_hidden, wants_weight, wants_bias = context.needs_input_grad
        expects = request.has_gradient and wants_hidden and not (wants_weight or wants_bias)
        parts = [request.summed(rows, expects=expects) for rows in request.row_pieces()]
        joined = [
            torch.cat(values) if values[0] is not None else None
            for values in ([getattr(part, name) for part in parts] for name in ("logprobs", "entropy", "log_sum", "direction"))
        ]
        context.save_for_backward(hidden, weight, bias, *joined[1:])
        return tuple(values for values in joined[:2] if values is not None)

    @staticmethod
    def backward(context: Any, of_logprobs: Tensor | None, of_entropy: Tensor | None = None) -> tuple[Tensor | None, ...]:
        request: _Request = context.request
        hidden, weight, bias, entropy, log_sum, direction = context.saved_tensors
        if direction is not None and of_entropy is None:
            return None, None if of_logprobs is None else direction * of_logprobs[:, None].to(direction.dtype), None, None
        gradients = _HeadGradients(request.given, hidden, weight, bias, context.needs_input_grad[1:])
        for rows in request.row_pieces():
            ours = torch.zeros_like(log_sum[rows]) if of_logprobs is None else of_logprobs[rows]
            ours = (ours / request.temperature)[:, None]
            times = hidden[rows] * -ours.to(hidden.dtype) if of_entropy is None else None
            for tokens, logits, inside, places in request.blocks(rows):
                logprobs, is_target = logits.sub_(log_sum[rows, None]), inside[:, None]
                if of_entropy is None:  # softmax minus one-hot, still to be multiplied by -ours
                    lost = logprobs.exp_().scatter_add_(1, places, -is_target.to(logits.dtype))
                    left = -ours
                else:
                    theirs = (of_entropy[rows] / request.temperature)[:, None]
                    lost = logprobs.exp().mul_(logprobs.add_(entropy[rows, None]).mul_(-theirs).sub_(ours))
                    lost.scatter_add_(1, places, ours * is_target)
                    left = torch.ones_like(ours)
                gradients.add(lost, rows, tokens, times)
                if gradients.bias is not None:
                    gradients.bias[tokens].add_(lost.t() @ left[:, 0])
            if of_entropy is None:
                gradients.multiply(rows, -ours)
        return gradients.found()


class _Pieces(torch.autograd.Function):
    """K statistics [N] of hidden states, a weight and a bias, by pieces of rows; see statistics_in_pieces."""

    @staticmethod
    def forward(context: Any, request: _Request, hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        context.request = request
        context.save_for_backward(hidden, weight, bias)
        parts = [request.statistics(request.given.logits(rows), rows) for rows in request.pieces()]
        return tuple(torch.cat(values) for values in zip(*parts, strict=True))

    @staticmethod
    def backward(context: Any, *of_statistics: Tensor) -> tuple[Tensor | None, ...]:
        request: _Request = context.request
        hidden, weight, bias = context.saved_tensors
        gradients = _HeadGradients(request.given, hidden, weight, bias, context.needs_input_grad[1:])
        for rows in request.pieces():
            of_logits = request.logits_gradient(request.given.logits(rows), of_statistics, rows)
            gradients.add(of_logits, rows, slice(None))
            if gradients.bias is not None:
                gradients.bias.add_(of_logits.sum(0))
        return gradients.found()
