"""The law of clips names what is lost on the wrong side, and accuses no sound truncation and no shipped algorithm."""

import re
from dataclasses import dataclass

import pytest
import torch

import rlx
from rlx.algorithm import LossOutput, Term
from tests.check.checking import failed
from tests.check.faulty import Rewards
from tests.check.sound import BestOfGroup, BothSidesAreMasked, Clipped, ClippedWithKl, SequenceLevel


@pytest.mark.parametrize(
    "kind", [Clipped, ClippedWithKl, BothSidesAreMasked, SequenceLevel, BestOfGroup], ids=lambda kind: kind.__name__
)
def test_a_sound_clip_is_not_accused(kind):
    assert failed(kind(), "clip") == {}


@dataclass(frozen=True, kw_only=True)
class Surrogate(Rewards):
    """-surrogate(ratio, advantages), with one constant."""

    cap: float = 2.0

    def compute_loss(self, policy, reference, batch):
        ratio, advantages = self.log_ratio(policy, batch).exp(), batch.advantages[..., None]
        return LossOutput({"policy": Term(-self.surrogate(ratio, advantages), batch.weights)})


class Capped(Surrogate):
    """Ratios above the cap get no gradient, whatever the sign of the advantage."""

    def surrogate(self, ratio, advantages):
        return ratio.clamp(max=self.cap) * advantages


class Floored(Surrogate):
    """Ratios below 1 / cap get no gradient, whatever the sign of the advantage."""

    def surrogate(self, ratio, advantages):
        return ratio.clamp(min=1 / self.cap) * advantages


class WrongSideIsMasked(Surrogate):
    """A mask that drops the tokens that went the wrong way."""

    def surrogate(self, ratio, advantages):
        wrong = ((advantages > 0) & (ratio < 1 / self.cap)) | ((advantages < 0) & (ratio > self.cap))
        return torch.where(wrong, 0.0, ratio * advantages)


class AboveIsMasked(Surrogate):
    """Importance ratios above the cap are left out, whatever the sign of the advantage (masked importance sampling)."""

    def surrogate(self, ratio, advantages):
        return torch.where(ratio > self.cap, 0.0, ratio * advantages)


class DualClip(Surrogate):
    """PPO's clip, and a second one for negative advantages (arXiv:1912.09729)."""

    def surrogate(self, ratio, advantages):
        return torch.minimum(ratio.clamp(max=self.cap) * advantages, ratio.clamp(0.8, 1.2) * advantages)


class TruncatedWeight(Surrogate):
    """The truncated ratio is a weight that carries no gradient."""

    def compute_loss(self, policy, reference, batch):
        log_ratio = self.log_ratio(policy, batch)
        weight = log_ratio.detach().exp().clamp(max=self.cap)
        return LossOutput({"policy": Term(-weight * log_ratio * batch.advantages[..., None], batch.weights)})


@pytest.mark.parametrize("cap", [1.3, 1.5, 1.7, 2.0, 2.4, 3.0, 10.0])
@pytest.mark.parametrize("kind", [Capped, Floored, WrongSideIsMasked], ids=lambda kind: kind.__name__)
def test_tokens_that_are_lost_on_the_wrong_side_are_named_whatever_the_constant(kind, cap):
    assert set(failed(kind(cap=cap), "clip")) == {"clip"}


@pytest.mark.parametrize("cap", [1.3, 1.7, 3.0, 10.0])
@pytest.mark.parametrize("kind", [AboveIsMasked, DualClip, TruncatedWeight], ids=lambda kind: kind.__name__)
def test_a_sound_truncation_is_not_accused_whatever_the_constant(kind, cap):
    assert failed(kind(cap=cap), "clip") == {}


def test_the_example_names_the_token_its_ratio_and_the_sign_of_its_advantage():
    example = failed(Capped(cap=1.5), "clip")["clip"].example
    assert re.match(r"token \d \('.+'\) of completion \d: ratio 1\.65, advantage negative; row \d+: ", example)
    assert "ratio 0.607, advantage positive" in failed(Floored(cap=1.5), "clip")["clip"].example


@pytest.mark.parametrize("name", ["ppo", "hybrid", "online_dpo"])
def test_no_shipped_algorithm_clips_wrongly(name):
    assert failed(rlx.load("algorithm", name), "clip") == {}


class SoftGate(Surrogate):
    """A gate of the ratio that closes softly on both sides (arXiv:2511.20347), so far that its slope is 0 for rounding."""

    cap: float = 4.0

    def surrogate(self, ratio, advantages):
        return 4 / self.cap * torch.sigmoid(self.cap * (ratio - 1)) * advantages


def test_a_slope_that_fades_is_not_given_up():
    assert failed(SoftGate(), "clip") == {}


class TwiceBelowACap(Surrogate):
    """The importance weight twice, once as a constant that is cut off at a cap."""

    cap: float = 5.0

    def surrogate(self, ratio, advantages):
        return ratio.detach().clamp(max=self.cap) * ratio * advantages


def test_a_ratio_that_counts_twice_below_a_cap_is_named():
    assert "weighed by the ratio twice" in failed(TwiceBelowACap(), "clip")["clip"].wrong
