"""A clip stops tokens that went the right way, at the ends that the loss names."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from rlx.check.law.loss import clip
from rlx.fields import within
from rlx.loss import PolicyGradientLoss, RolloutLogprobs, stop_gradient
from tests.loss.catalogue import load


@dataclass(frozen=True, kw_only=True)
class ByHand(PolicyGradientLoss):
    """PPO's clip; those below turn one thing around each."""

    clip_low: float = within(at_least=0, at_most=1, default=0.1)
    clip_high: float = within(at_least=0, default=0.3)

    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_low, 1 + self.clip_high

    def both(self, rollouts: RolloutLogprobs) -> tuple[Tensor, Tensor]:
        ratio = rollouts.log_ratio.clamp(-20, 20).exp()
        return ratio * rollouts.advantages, ratio.clamp(*self.ends()) * rollouts.advantages

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -torch.minimum(*self.both(rollouts))


class Larger(ByHand):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -torch.maximum(*self.both(rollouts))


class ClippedAlone(ByHand):
    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        return -self.both(rollouts)[1]


class EndsAreSwapped(ByHand):
    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_high, 1 + self.clip_low


class OneEndForBoth(ByHand):
    def ends(self) -> tuple[float, float]:
        return 1 - self.clip_low, 1 + self.clip_low


class Masked(ByHand):
    """Tokens beyond either end add nothing: a choice, for what is dropped is not counted."""

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        whole, clipped = self.both(rollouts)
        return torch.where(whole == clipped, -whole, 0.0)


class Weighed(ByHand):
    """A clipped weight never gives a token up."""

    def surrogate(self, rollouts: RolloutLogprobs) -> Tensor:
        ratio = rollouts.log_ratio.clamp(-20, 20).exp().clamp(*self.ends())
        return -stop_gradient(ratio) * rollouts.advantages * rollouts.token_logprobs


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Larger, "go on learning"),
        (ClippedAlone, "counted but learn nothing"),
        (EndsAreSwapped, "are not given up at the ratio 0.9"),
        (OneEndForBoth, "are not given up at the ratio 1.3"),
    ],
)
def test_a_clip_that_is_turned_round_is_named(kind, said):
    assert said in str(clip(kind()))


@pytest.mark.parametrize(
    "loss", [ByHand(), ByHand(clip_low=1.0), ByHand(beta=0.1), Masked(), Weighed(), load("dpo"), load("dual_clip", dual_clip=1.6)]
)
def test_a_sound_one_is_not(loss):
    assert clip(loss) is None
