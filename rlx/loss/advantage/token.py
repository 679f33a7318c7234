"""Advantages of single tokens: from rewards per token, with or without a value head.

Dimensions: B sequences (leading dimensions [P, G] work too), T tokens. Tokens that an environment or tool wrote are not steps:
the policy's token before them is followed by its token after them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from rlx.errors import ShapeError
from rlx.fields import Ranged, class_of, evaluated, reads_of, with_options, within
from rlx.loss.base import by_sequence, masked, require_shape

Discount = Annotated[float, within(at_least=0, at_most=1, advice="1 is usual for language")]
SMALL = "it keeps a batch of equal returns finite; 1e-8 is usual"


def has_gaps(completion_mask: Tensor) -> bool:
    """Whether tokens of an environment or a tool lie between the learned tokens of a completion. completion_mask: bool [B, T]."""
    return bool((completion_mask[..., 1:] & ~completion_mask[..., :-1]).any())


def without_gaps(formula: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Make a formula of [B, T] tensors, the last one the mask, treat the learned tokens of a completion as adjacent.

    For the policy they are: text of an environment or tool in between is part of the state in which it picks its next token.
    """
    order = torch.argsort(~tensors[-1], dim=-1, stable=True)
    found = formula(*(tensor.gather(-1, order) for tensor in tensors))
    return torch.zeros_like(found).scatter(-1, order, found)


def discounted_returns(token_rewards: Tensor, completion_mask: Tensor, *, gamma: float | Tensor) -> Tensor:
    """R_t = r_t + γ R_(t+1). [B, T] -> [B, T], 0 outside of the mask. gamma: a number, or one per sequence [B]."""
    if has_gaps(completion_mask):
        return without_gaps(partial(discounted_returns, gamma=gamma), token_rewards, completion_mask)
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


@dataclass(frozen=True, kw_only=True)
class TokenAdvantage(Ranged, ABC):
    """An advantage of tokens: `advantage(token_rewards, completion_mask, values=...) -> [B, T]`.

    requires: {"values"} if it needs a value head.
    """

    formula: ClassVar[Callable[..., Tensor]]
    reads: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, token_rewards: Tensor, completion_mask: Tensor, *, values: Tensor | None = None) -> Tensor:
        """Advantages [B, T], detached, 0 outside of the mask."""
        if "values" in self.requires and values is None:
            raise ShapeError(f"{type(self).__name__} needs values [B, T] of a value head; an algorithm declares Need.VALUES")
        for name, tensor in (("token_rewards", token_rewards), ("values", values)):
            if tensor is not None and tensor.shape != completion_mask.shape:
                raise ShapeError(f"{name} is {tuple(tensor.shape)}, but completion_mask {tuple(completion_mask.shape)}")
        mask = by_sequence(completion_mask)
        critic = None if values is None else by_sequence(values.detach())
        found = self.of_tokens(by_sequence(token_rewards.detach()), mask, critic)
        found = require_shape(found, mask.shape, by=type(self).__name__, of="an advantage for each token")
        return found.reshape(completion_mask.shape)

    @abstractmethod
    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """The formula: advantages [B, T]."""


@dataclass(frozen=True, kw_only=True)
class TokenAdvantageFormula(TokenAdvantage):
    """An advantage of tokens defined by one function; `token_advantage` creates its subclasses."""

    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """Call the formula with the inputs that it reads: advantages [B, T]."""
        given = {"token_rewards": token_rewards, "completion_mask": completion_mask, "values": values}
        found: Tensor = evaluated(self, given.__getitem__)
        return found


@with_options
def token_advantage(function: Callable[..., Tensor]) -> type[TokenAdvantage]:
    """Make a class of advantages of tokens from its formula, which returns [B, T].

    The formula may read token_rewards [B, T], completion_mask bool [B, T], and values [B, T] of a value head.
    Raises ConfigError if a parameter has another name.
    """
    names = ("token_rewards", "completion_mask", "values")
    return class_of(
        function, TokenAdvantageFormula, names, requires=frozenset({"values"}).intersection(reads_of(function, names))
    )


@token_advantage
def reinforce_plus_plus(
    token_rewards: Tensor,
    completion_mask: Tensor,
    *,
    gamma: Discount = 1.0,
    epsilon: Annotated[float, within(above=0, advice=SMALL)] = 1e-8,
) -> Tensor:
    """Discounted returns R_t = Σ_(s ≥ t) γ^(s-t) r_s, whitened over the tokens of the batch.

    Returns from each token on, whitened over the batch; needs neither groups nor a value head.
    Paper: Hu et al. 2025, REINFORCE++, arXiv:2501.03262.
    Shapes: token_rewards r [B, T], completion_mask bool [B, T] -> [B, T].
    gamma: γ, the discount per token.
    epsilon: added to the variance.
    Convention: the sample variance, as in verl; OpenRLHF divides by the number of tokens.
    """
    return whitened(discounted_returns(token_rewards, completion_mask, gamma=gamma), completion_mask, epsilon=epsilon)


def generalized_advantage(
    token_rewards: Tensor, values: Tensor, completion_mask: Tensor, *, gamma: float, lam: float | Tensor
) -> Tensor:
    """A_t = Σ_s (γ λ)^s δ_(t+s), δ_t = r_t + γ V_(t+1) - V_t, V = 0 after the last token.

    Paper: Schulman et al. 2015, High-dimensional continuous control using GAE, eq. 16, arXiv:1506.02438.
    Shapes: token_rewards r [B, T], values V [B, T], completion_mask bool [B, T] -> [B, T]; A + V are the returns.
    lam: a number, or one per sequence [B].
    """
    if has_gaps(completion_mask):
        return without_gaps(partial(generalized_advantage, gamma=gamma, lam=lam), token_rewards, values, completion_mask)
    values = masked(values, completion_mask)
    after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], dim=-1)
    return discounted_returns(token_rewards + gamma * after - values, completion_mask, gamma=gamma * lam)


@dataclass(frozen=True, kw_only=True)
class Gae(TokenAdvantage):
    """Generalised advantage estimation: between one-step errors of the value head (λ = 0) and whole returns (λ = 1).

    gamma: γ, the discount per token.
    lam: λ, how far back the errors of later tokens count.
    whiten: normalise the advantages to mean 0 and variance 1 over the tokens of the batch; returns are never whitened.
    epsilon: added to the variance when whitening.
    """

    formula: ClassVar = generalized_advantage
    requires: ClassVar[frozenset[str]] = frozenset({"values"})

    gamma: float = within(at_least=0, at_most=1, advice="1 is usual for language")
    lam: float = within(at_least=0, at_most=1, advice="0.95 and 1 are usual")
    whiten: bool
    epsilon: float = within(above=0, advice=SMALL)

    def of_tokens(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        """generalized_advantage [B, T], whitened if `whiten` is set."""
        advantages = self._raw(token_rewards, completion_mask, values)
        return whitened(advantages, completion_mask, epsilon=self.epsilon) if self.whiten else advantages

    def returns(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor) -> Tensor:
        """Regression targets of the value head [B, T]: unwhitened advantages plus values."""
        values = masked(values.detach(), completion_mask)
        return self._raw(token_rewards.detach(), completion_mask, values) + values

    def _raw(self, token_rewards: Tensor, completion_mask: Tensor, values: Tensor | None) -> Tensor:
        assert values is not None
        return generalized_advantage(token_rewards, values, completion_mask, gamma=self.gamma, lam=self.lam)


@token_advantage
def gae_by_length(
    token_rewards: Tensor,
    completion_mask: Tensor,
    values: Tensor,
    *,
    alpha: Annotated[float, within(above=0, advice="lambda is 1 - 1 / (alpha n); 0.05 is that of the paper")] = 0.05,
) -> Tensor:
    """generalized_advantage with γ = 1 and λ = max(0, 1 - 1 / (α n)), n the tokens of the completion.

    GAE that reaches further back in longer completions; the critic is regressed to whole returns (λ = 1).
    Paper: Yue et al. 2025, VAPO: efficient and reliable reinforcement learning for advanced reasoning tasks, arXiv:2504.05118.
    Shapes: token_rewards r [B, T], completion_mask bool [B, T], values V [B, T] -> [B, T].
    alpha: α; completions of at most 1 / α tokens have λ = 0.
    """
    lengths = completion_mask.sum(dim=-1).clamp(min=1).to(token_rewards.dtype)
    lam = (1 - 1 / (alpha * lengths)).clamp(min=0)
    return generalized_advantage(token_rewards, values, completion_mask, gamma=1.0, lam=lam)
