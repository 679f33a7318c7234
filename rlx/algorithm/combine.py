"""Ways to combine the gradients of several terms into one.

A gradient is a list of tensors in the order of the policy's parameters, None if a term does not depend on one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rlx.optimizer.step import Gradients, total_norm


@dataclass(frozen=True)
class Combine(ABC):
    """`combine(gradients) -> gradient`; gradients: term -> its gradient, already multiplied by its weight."""

    @abstractmethod
    def __call__(self, gradients: Mapping[str, Gradients]) -> Gradients:
        """The combined gradient."""


@dataclass(frozen=True)
class Sum(Combine):
    """The gradient of the weighted sum of the losses."""

    def __call__(self, gradients: Mapping[str, Gradients]) -> Gradients:
        return added(list(gradients.values()))


@dataclass(frozen=True)
class PcGrad(Combine):
    """If two gradients conflict, the component along the other is removed from each; then all are summed.

    Yu et al. 2020, Gradient surgery for multi-task learning, arXiv:2001.06782, algorithm 1. The other terms are visited in the
    order of their names, where the paper shuffles them; with two terms there is only one order.
    """

    def __call__(self, gradients: Mapping[str, Gradients]) -> Gradients:
        projected = []
        for name, gradient in gradients.items():
            for other_name in sorted(gradients):
                other = gradients[other_name]
                overlap = dot(gradient, other)
                if other_name != name and overlap < 0:
                    gradient = added([gradient, scaled(other, -overlap / dot(other, other))])
            projected.append(gradient)
        return added(projected)


@dataclass(frozen=True)
class NormalizedSum(Combine):
    """Each gradient divided by its norm, times the mean of the norms: equal influence for all terms, whatever their scale."""

    def __call__(self, gradients: Mapping[str, Gradients]) -> Gradients:
        norms = {name: total_norm(gradient) for name, gradient in gradients.items()}
        moving = [name for name, norm in norms.items() if norm > 0]
        if not moving:
            return added(list(gradients.values()))
        mean = torch.stack([norms[name] for name in moving]).mean()
        return added([scaled(gradients[name], mean / norms[name]) for name in moving])


def dot(first: Gradients, second: Gradients) -> Tensor:
    """[] the inner product of two gradients."""
    products = [(a * b).sum() for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return torch.stack(products).sum() if products else torch.zeros(())


def cosine(first: Gradients, second: Gradients) -> float:
    """Cosine of the angle between two gradients; 0 if one of them is 0."""
    lengths = total_norm(first) * total_norm(second)
    return float(dot(first, second) / lengths) if lengths > 0 else 0.0


def scaled(gradient: Gradients, factor: Tensor) -> Gradients:
    """The gradient times `factor`."""
    return [None if part is None else part * factor.to(part) for part in gradient]


def added(gradients: list[Gradients]) -> Gradients:
    """The sum; a single gradient is returned unchanged."""
    total = gradients[0]
    for gradient in gradients[1:]:
        total = [b if a is None else a if b is None else a + b for a, b in zip(total, gradient, strict=True)]
    return total
