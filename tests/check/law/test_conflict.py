"""Gradients that conflict: what lies along the other one is taken away, whatever the lengths of both are."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput, Term
from rlx.algorithm.combine import added, dot, scaled
from tests.check.checking import failed
from tests.check.faulty import Preferences
from tests.check.mistakes import WithReference


class BothProjected(WithReference):
    """What lies along the other gradient is taken away of both where they conflict (arXiv:2001.06782)."""

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        policy, kl = (
            [torch.zeros_like(p) if g is None else g for p, g in zip(optimizer.parameters, each, strict=True)]
            for each in found.values()
        )
        return optimizer.step(self.mixed(policy, kl, dot(policy, kl)), self.clipping)

    def mixed(self, policy, kl, overlap):
        return added([self.without(policy, kl, overlap), self.without(kl, policy, overlap)])

    def without(self, gradient, other, overlap):
        return self.projected(gradient, other, overlap) if overlap < 0 else gradient

    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, -overlap / dot(other, other).clamp(min=1e-30))])


class WrongSignOnBoth(BothProjected):
    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, overlap / dot(other, other))])


class WrongSignOnOne(BothProjected):
    def mixed(self, policy, kl, overlap):
        return added([self.without(policy, kl, overlap), kl])

    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, overlap / dot(other, other))])


class NotDivided(BothProjected):
    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, -overlap)])


class DividedByTheNorm(BothProjected):
    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, -overlap / dot(other, other).sqrt())])


class DividedByItsOwn(BothProjected):
    def projected(self, gradient, other, overlap):
        return added([gradient, scaled(other, -overlap / dot(gradient, gradient))])


class WhereTheyAgree(BothProjected):
    def without(self, gradient, other, overlap):
        return self.projected(gradient, other, overlap) if overlap > 0 else gradient


class Always(BothProjected):
    def without(self, gradient, other, overlap):
        return self.projected(gradient, other, overlap)


class OneAlone(BothProjected):
    """The second has the lead."""

    def mixed(self, policy, kl, overlap):
        return added([self.without(policy, kl, overlap), kl])


class AsLongAsBoth(BothProjected):
    """The sum, as long as both norms together."""

    def mixed(self, policy, kl, overlap):
        whole = added([policy, kl])
        wanted = dot(policy, policy).sqrt() + dot(kl, kl).sqrt()
        return scaled(whole, wanted / (dot(whole, whole).sqrt() + 1e-12))


class OneAfterTheOther(BothProjected):
    """The second is projected on what is left of the first."""

    def mixed(self, policy, kl, overlap):
        policy = self.without(policy, kl, overlap)
        return added([policy, self.without(kl, policy, dot(policy, kl))])


class TheLongerAlone(BothProjected):
    def mixed(self, policy, kl, overlap):
        return added([policy, kl]) if overlap >= 0 else policy if dot(policy, policy) > dot(kl, kl) else kl


class SecondIsOrthogonal(BothProjected):
    """Of the second gradient what is orthogonal to the first (Gram and Schmidt), whether they conflict or not."""

    def mixed(self, policy, kl, overlap):
        return added([policy, self.projected(kl, policy, overlap)])


class ShortestOfAllMixtures(BothProjected):
    """The point of the line between both that is nearest to 0 (MGDA, arXiv:1810.04650)."""

    def mixed(self, policy, kl, overlap):
        apart = added([policy, scaled(kl, torch.tensor(-1.0))])
        share = (-dot(apart, kl) / dot(apart, apart).clamp(min=1e-30)).clamp(0, 1)
        return added([scaled(policy, share), scaled(kl, 1 - share)])


class WhereSignsAgree(BothProjected):
    def mixed(self, policy, kl, overlap):
        return [torch.where(a * b >= 0, a + b, torch.zeros_like(a)) for a, b in zip(policy, kl, strict=True)]


WRONG = {
    WrongSignOnBoth: "goes against that of",
    WrongSignOnOne: "goes against",
    NotDivided: "not divided by a squared norm",
    DividedByTheNorm: "not divided by a squared norm",
    DividedByItsOwn: "less with the shorter one",
    WhereTheyAgree: "agreement is taken away",
    Always: "agreement is taken away",
}
SOUND = [
    BothProjected,
    OneAlone,
    AsLongAsBoth,
    OneAfterTheOther,
    TheLongerAlone,
    SecondIsOrthogonal,
    ShortestOfAllMixtures,
    WhereSignsAgree,
]


@pytest.mark.parametrize(("kind", "said"), WRONG.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_wrong_about_a_conflict_is_named(kind, said):
    assert said in failed(kind(), "update")["update"].wrong


@pytest.mark.parametrize("kind", SOUND)
def test_other_ways_to_treat_a_conflict_are_sound(kind):
    assert failed(kind(), "update") == {}


@dataclass(frozen=True, kw_only=True)
class TakenAwayInPart(Preferences):
    """Preferences and likelihood, whose gradients seldom conflict; of a conflict a share is taken away on both sides."""

    strength: float = 0.5

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        margin = self.margin(ours, reference.pair_logprobs(batch))
        weights = batch.weights["preference"]
        return LossOutput({"margin": Term(-F.logsigmoid(self.beta * margin), weights), "nll": Term(-ours.chosen_mean, weights)})

    def update_policy(self, gradients, optimizer):
        one, two = (
            [torch.zeros_like(p) if g is None else g for p, g in zip(optimizer.parameters, each, strict=True)]
            for each in gradients(by=str).values()
        )
        overlap = self.share() * dot(one, two).clamp(max=0)
        parts = [scaled(one, 1 - overlap / dot(one, one)), scaled(two, 1 - overlap / dot(two, two))]
        return optimizer.step(added(parts), self.clipping)

    def share(self):
        return self.strength


class ShareThatCancels(TakenAwayInPart):
    def share(self):
        return self.strength / self.strength


def test_what_acts_on_conflicts_alone_is_tried_on_them():
    assert failed(TakenAwayInPart(), "hyperparameters") == {}
    assert "changing strength changes nothing" in failed(ShareThatCancels(), "hyperparameters")["hyperparameters"].wrong
