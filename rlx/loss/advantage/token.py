"""Advantages of single tokens: from rewards at tokens, with or without a value head.

Dimensions: B sequences (leading dimensions [P, G] will do too), T tokens, completions without gaps from their first token on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import check_hyperparameters, within
from rlx.loss.advantage.completion import require_advantages
from rlx.loss.preference.base import masked

EPSILON = "it keeps a batch of equal returns finite; 1e-8 is usual"


def discounted_returns(token_rewards: Tensor, completion_mask: Tensor, *, gamma: float) -> Tensor:
    """R_t = r_t + γ R_(t+1). [B, T] -> [B, T], 0 outside of the mask."""
    rewards, running, returns = masked(token_rewards, completion_mask), torch.zeros_like(token_rewards[..., 0]), []
    for step in reversed(range(rewards.shape[-1])):
        running = rewards[..., step] + gamma * running
        returns.append(running)
    return masked(torch.stack(returns[::-1], dim=-1), completion_mask)


def whitened(values: Tensor, completion_mask: Tensor, *, epsilon: float) -> Tensor:
    """(x - mean) / √(variance + ε) over the tokens of the batch, the sample variance. [B, T] -> [B, T], 0 outside of the mask."""
    count = completion_mask.sum()
    centered = masked(values - masked(values, completion_mask).sum() / count.clamp(min=1), completion_mask)
    variance = (centered**2).sum() / (count - 1).clamp(min=1)
    return centered * torch.rsqrt(variance + epsilon)


def reinforce_plus_plus(token_rewards: Tensor, completion_mask: Tensor, *, gamma: float, epsilon: float) -> Tensor:
    """Discounted returns R_t = Σ_(s ≥ t) γ^(s-t) r_s, whitened over the tokens of the batch.

    Paper: Hu et al. 2025, REINFORCE++, arXiv:2501.03262.
    Shapes: token_rewards r [B, T], completion_mask bool [B, T] -> [B, T].
    """
    return whitened(discounted_returns(token_rewards, completion_mask, gamma=gamma), completion_mask, epsilon=epsilon)


def generalized_advantage(token_rewards: Tensor, values: Tensor, completion_mask: Tensor, *, gamma: float, lam: float) -> Tensor:
    """A_t = Σ_s (γ λ)^s δ_(t+s), δ_t = r_t + γ V_(t+1) - V_t, V = 0 after the last token.

    Paper: Schulman et al. 2015, High-dimensional continuous control using GAE, eq. 16, arXiv:1506.02438.
    Shapes: token_rewards r [B, T], values V [B, T], completion_mask bool [B, T] -> [B, T]; A + V are the returns.
    """
    values = masked(values, completion_mask)
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    return discounted_returns(token_rewards + gamma * after - values, completion_mask, gamma=gamma * lam)


@dataclass(frozen=True, kw_only=True)
class TokenAdvantage(ABC):
    """An advantage of tokens: `advantage(token_rewards, completion_mask, values=...) -> [B, T]`.

    requires: {"values"} where a value head is needed.
    """

    requires: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __call__(self, token_rewards: Tensor, completion_mask: Tensor, *, values: Tensor | None = None) -> Tensor:
        """[B, T] without a gradient, 0 outside of the mask."""
        if "values" in self.requires and values is None:
            raise ShapeError(f"{type(self).__name__} needs values [B, T] of a value head; an algorithm says so with Need.VALUES")
        for name, tensor in (("token_rewards", token_rewards), ("values", values)):
            if tensor is not None and tensor.shape != completion_mask.shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(completion_mask.shape)}")
        found = self.of_tokens(token_rewards.detach(), completion_mask, None if values is None else values.detach())
        return require_advantages(found, token_rewards, by=f"{type(self).__name__}.of_tokens")

    @abstractmethod
    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """[B, T] the formula."""


@dataclass(frozen=True, kw_only=True)
class ReinforcePlusPlus(TokenAdvantage):
    """Returns from each token on, whitened over the batch; no group, no value head.

    gamma: γ, the discount of a token.
    epsilon: added to the variance.
    Convention: the sample variance, as in verl; OpenRLHF divides by the number of tokens.
    """

    formula: ClassVar = reinforce_plus_plus

    gamma: float = within(at_least=0, at_most=1, advice="1 is usual for language")
    epsilon: float = within(above=0, advice=EPSILON)

    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """[B, T] reinforce_plus_plus."""
        return reinforce_plus_plus(token_rewards, completion_mask, gamma=self.gamma, epsilon=self.epsilon)


@dataclass(frozen=True, kw_only=True)
class Gae(TokenAdvantage):
    """Generalised advantage estimation: between one-step errors of the value head (λ = 0) and whole returns (λ = 1).

    gamma: γ, the discount of a token.
    lam: λ, how far the errors of later tokens reach back.
    whiten: are the advantages brought to mean 0 and variance 1 over the tokens of the batch? The returns never are.
    epsilon: added to the variance in doing so.
    """

    formula: ClassVar = generalized_advantage
    requires: ClassVar[frozenset[str]] = frozenset({"values"})

    gamma: float = within(at_least=0, at_most=1, advice="1 is usual for language")
    lam: float = within(at_least=0, at_most=1, advice="0.95 and 1 are usual")
    whiten: bool
    epsilon: float = within(above=0, advice=EPSILON)

    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """[B, T] generalized_advantage, whitened or not."""
        advantages = self._raw(token_rewards, completion_mask, values)
        return whitened(advantages, completion_mask, epsilon=self.epsilon) if self.whiten else advantages

    def returns(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor) -> Tensor:
        """[B, T] what the value head is regressed to: advantages, not whitened, plus values."""
        values = masked(values.detach(), completion_mask)
        return self._raw(token_rewards.detach(), completion_mask, values) + values

    def _raw(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        assert values is not None
        return generalized_advantage(token_rewards, values, completion_mask, gamma=self.gamma, lam=self.lam)
