"""Any weighted sum of preference losses as one loss.

Dimensions: B pairs, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlx.errors import ConfigError
from rlx.fields import Ranged, within
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.preference.pairs import PairLogprobs


@dataclass(frozen=True, kw_only=True)
class LossPart(Ranged):
    """One loss in a mixture.

    coefficient: multiplies the loss.
    loss: any preference loss, with its own hyperparameters.
    """

    coefficient: float = within(at_least=0, advice="a negative one would undo what the loss teaches")
    loss: PreferenceLoss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.loss, PreferenceLoss):
            raise ConfigError(
                f"loss of a mixture's part is {self.loss!r}, not a preference loss; give it a _target_ from conf/loss"
            )


def mixture_loss(values: list[Tensor], coefficients: list[float]) -> Tensor:
    """Σ_k coefficient_k · loss_k, each loss_k summed with its own weights.

    Paper: Wang et al. 2024, Mixed preference optimization (MPO), arXiv:2411.10442.
    Shapes: values K times [B] -> [B, K], one column per part.
    """
    return torch.stack([coefficient * value for coefficient, value in zip(coefficients, values, strict=True)], dim=1)


@dataclass(frozen=True, kw_only=True)
class LossMixture(PreferenceLoss):
    """A weighted sum of preference losses: MPO's quality, preference and generation terms, or any other.

    parts: name -> {coefficient, loss}, each loss a node as `loss=NAME` gives it.
    Convention: values are [B, K], one column per part, as a mean over pairs and a mean over tokens weight rows differently.
    """

    formula: ClassVar = mixture_loss

    parts: Mapping[str, LossPart]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", dict(self.parts))
        if not self.parts:
            raise ConfigError("a mixture without parts is not a loss; name at least one under loss.parts")
        for name, part in self.parts.items():
            if not isinstance(part, LossPart):
                raise ConfigError(
                    f"parts.{name} of a mixture is {part!r}; "
                    "write _target_: rlx.loss.preference.mixture.LossPart, coefficient and loss"
                )
            if part.loss.moving_reference is not None:
                raise ConfigError(
                    f"parts.{name}.loss of a mixture moves the reference, which all parts share; "
                    "write the modifier at the mixture's own modifiers"
                )
        losses = [part.loss for part in self.parts.values()]
        object.__setattr__(self, "requires", frozenset().union(*(loss.requires for loss in losses)))
        object.__setattr__(self, "couples_rows", any(loss.couples_rows for loss in losses))
        object.__setattr__(self, "needs_reference", any(loss.needs_reference for loss in losses))
        object.__setattr__(self, "reads_rejected", any(loss.reads_rejected for loss in losses))
        super().__post_init__()

    def values(self, policy: PairLogprobs, reference: PairLogprobs | None) -> Tensor:
        """[B, K] each part's values, multiplied by its coefficient."""
        parts = self.parts.values()
        return mixture_loss([part.loss(policy, reference) for part in parts], [part.coefficient for part in parts])

    def weights(self, completion_mask: Tensor) -> Tensor:
        """[B, K] the weights of each part. completion_mask: bool [B, T] of the chosen completions, or [B, 2, T]."""
        return torch.stack([part.loss.weights(completion_mask) for part in self.parts.values()], dim=1)

    def implicit_rewards(self, policy: PairLogprobs, reference: PairLogprobs | None) -> tuple[Tensor, Tensor]:
        """([B], [B]) the implicit rewards of the first part, for metrics."""
        return next(iter(self.parts.values())).loss.implicit_rewards(policy, reference)

    def reward_rounding(self, policy: PairLogprobs) -> Tensor:
        """[B] the rounding of the first part's rewards."""
        return next(iter(self.parts.values())).loss.reward_rounding(policy)
