"""Modifiers of policy-gradient losses that read the entropy of the policy at each token.

Dimensions: B sequences, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.loss.hyperparameter import within
from rlx.loss.policy_gradient_base import PolicyGradientModifier
from rlx.loss.rollout_logprobs import RolloutLogprobs


def high_entropy_tokens(entropy: Tensor, completion_mask: Tensor, *, share: float) -> Tensor:
    """bool [B, T]: the `share` of the batch's tokens at which the policy is least certain, ties with the last one included.

    Wang et al. 2025, Beyond the 80/20 rule, arXiv:2506.01939. entropy, completion_mask: [B, T].
    """
    values = entropy.detach()[completion_mask]
    if len(values) == 0:
        return completion_mask
    # A sort rather than torch.quantile, which refuses more than 16 million values; the interpolation is the same.
    place = (1 - share) * (len(values) - 1)
    ordered = values.sort().values
    low, high = ordered[int(place)], ordered[min(int(place) + 1, len(values) - 1)]
    return completion_mask & (entropy.detach() >= low + (high - low) * (place - int(place)))


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(PolicyGradientModifier):
    """Minus the coefficient times the entropy, at each token: keeps the policy from collapsing.

    coefficient: how much an entropy of one nat is worth.
    Convention: it is averaged with the weights of the loss; TRL takes the mean over tokens whatever the loss's weights.
    """

    requires: ClassVar[frozenset[str]] = frozenset({"entropy"})

    coefficient: float = within(at_least=0, advice="a negative one would punish entropy; 0.001 is usual")

    def addition(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] -coefficient · entropy."""
        assert rollouts.entropy is not None
        return -self.coefficient * rollouts.entropy


@dataclass(frozen=True, kw_only=True)
class HighEntropyTokens(PolicyGradientModifier):
    """Only the tokens at which the policy is least certain learn.

    share: the share of the batch's tokens that learn; 1 is all of them.
    Convention: the mean is still over all tokens, as in TRL, so a smaller share has a smaller gradient.
    """

    formula: ClassVar = high_entropy_tokens
    requires: ClassVar[frozenset[str]] = frozenset({"entropy"})
    couples_rows: ClassVar[bool] = True

    share: float = within(above=0, at_most=1, advice="0.2 is that of the paper")

    def scale(self, rollouts: RolloutLogprobs) -> Tensor:
        """[B, T] 1 at high_entropy_tokens, 0 elsewhere."""
        assert rollouts.entropy is not None
        chosen = high_entropy_tokens(rollouts.entropy, rollouts.completion_mask, share=self.share)
        return chosen.to(torch.promote_types(rollouts.token_logprobs.dtype, torch.float32))
