"""A reference that follows the policy: every so many steps it is mixed with it.

Gorbatovski et al. 2024, Learn your reference model for real good alignment (TR-DPO), arXiv:2404.09656. The formula does not
change, only what it is held to; the training loop asks `due` after each step and replaces the reference's weights by `mix`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlx.loss.base import PreferenceModifier
from rlx.loss.hyperparameter import within


def mixed(reference: Tensor, policy: Tensor, *, policy_share: float) -> Tensor:
    """α π + (1-α) π0 of one parameter, without a gradient. Any shape -> the same, in the reference's dtype."""
    return reference.detach().lerp(policy.detach().to(reference.dtype), policy_share)


@dataclass(frozen=True, kw_only=True)
class MovingReference(PreferenceModifier):
    """TR-DPO: every so many steps the reference takes a share of the policy's weights; applies to every loss with a reference.

    every_steps: steps between two updates of the reference.
    policy_share: α, the policy's share of the mixture; 1 is the hard update of the paper, below it the soft one.
    Convention: TRL's defaults are 512 steps and 0.6 (0.9 in older versions).
    """

    formula: ClassVar = mixed
    moves_reference: ClassVar[bool] = True

    every_steps: int = within(at_least=1, whole=True, advice="512 is usual")
    policy_share: float = within(above=0, at_most=1, advice="0.6 is usual, 1 replaces the reference by the policy")

    def due(self, step: int) -> bool:
        """Is the reference updated after `step` steps?"""
        return step > 0 and step % self.every_steps == 0

    def mix(self, reference: Tensor, policy: Tensor) -> Tensor:
        """The reference's parameter after an update."""
        return mixed(reference, policy, policy_share=self.policy_share)
