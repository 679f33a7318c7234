"""A value head: what return the policy expects from here on, read off its last hidden state.

Dimensions: N positions, H hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """A linear map of the hidden state that the language-model head reads; 0 at first, so that GAE begins with plain returns."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [N, H]. Returns [N], in float32 (float64 if the weights are)."""
        values = self.linear(hidden)[..., 0]
        return values if values.dtype == torch.float64 else values.float()

    def __call__(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As forward, with its type."""
        result: Tensor = super().__call__(hidden, *args, **kwargs)
        return result
