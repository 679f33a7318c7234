"""What a value head is trained towards: rewards at tokens, and returns.

Dimensions: P prompts, G completions of a prompt, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlx.loss.advantage import Advantage
from rlx.loss.kl import token_rewards_with_kl
from rlx.loss.token_advantage import Gae, TokenAdvantage, discounted_returns
from rlx.rollout.rollouts import RolloutBatch


def token_rewards(batch: RolloutBatch, *, kl_in_reward: float, estimator: str) -> Tensor:
    """[P, G, T] the reward at a completion's last token, less kl_in_reward times the estimate of the KL at every token."""
    reference = batch.sampling_logprobs if batch.reference_logprobs is None else batch.reference_logprobs.cpu()
    tensors = (batch.rewards, batch.sampling_logprobs, reference, batch.loss_mask)
    return token_rewards_with_kl(*tensors, beta=kl_in_reward, estimator=estimator)


def returns_of(advantage: Advantage | TokenAdvantage, rewards: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[P, G, T] what the values are regressed to: GAE's own returns, or without it the sum of the rewards to come."""
    if isinstance(advantage, Gae):
        return advantage.returns(rewards, mask, values)
    return discounted_returns(rewards, mask, gamma=1.0)


def explained_variance(batch: RolloutBatch) -> float:
    """1 - variance of (return - value) / variance of the returns, over tokens: 1 is a perfect critic, 0 a constant one."""
    assert batch.returns is not None
    assert batch.values is not None
    mask = batch.loss_mask
    returns, values = batch.returns[mask].double(), batch.values.cpu()[mask].double()
    spread = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / spread) if spread > 0 else float(torch.zeros(()))
