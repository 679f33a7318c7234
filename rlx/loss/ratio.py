"""Exponentials of log-ratios that stay finite.

Dimensions: any shape.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 20.0  # e^20 is 5e8: far beyond what any clip lets through, and its square is finite in float32


def clamped_exp(exponent: Tensor) -> Tensor:
    """exp of `exponent` clamped to ±20; no gradient beyond. Any shape."""
    return torch.exp(exponent.clamp(-LIMIT, LIMIT))


def stop_gradient(values: Tensor) -> Tensor:
    """`values` as a constant: no gradient flows through it. Shape unchanged."""
    return values.detach()
