"""Formulas misread; MISREADINGS says which laws may name each, FAITHFUL are sound algorithms that look alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rlx.algorithm import AlgorithmType, LossOutput, Need, Term
from rlx.rollout.draw import roll_out
from tests.check.faulty import Preferences, Rewards
from tests.check.mistakes import WithReference


@dataclass(frozen=True, kw_only=True)
class HalfCosine(Preferences):
    """Sound: a likelihood whose weight falls along half a cosine."""

    anneal_steps: int = 50

    def share(self, done):
        return 0.5 * (1 + math.cos(math.pi * done))

    def draw(self, lab):
        batch = super().draw(lab)
        even = batch.weights["preference"]
        return batch.with_weights(preference=even, likelihood=self.share(min(1.0, lab.step / self.anneal_steps)) * even)

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        return LossOutput({**output.terms, "likelihood": Term(-ours.chosen_mean, batch.weights["likelihood"])})


class CosineWithoutPi(HalfCosine):
    """The cosine stops at an angle of 1."""

    def share(self, done):
        return 0.5 * (1 + math.cos(done))


class SineWithoutPi(HalfCosine):
    """A warm-up along a sine that stops at an angle of 1."""

    def share(self, done):
        return 0.1 + math.sin(done)


class QuarterSine(HalfCosine):
    """Sound: a warm-up along a quarter of a sine."""

    def share(self, done):
        return 0.1 + math.sin(math.pi / 2 * done)


class ParabolaToAFloor(HalfCosine):
    """Sound: the weight falls faster and faster, to three quarters."""

    def share(self, done):
        return 1 - done**2 / 4


class KlUpsideDown(WithReference):
    """k3 with the ratio of the policy to the reference, of tokens that the policy has sampled."""

    def apart(self, ours, theirs):
        return (ours - theirs).clamp(-20, 20)

    def penalty(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        apart = self.apart(ours, theirs)
        return apart.exp() - apart - 1


class KlTheRightWayUp(KlUpsideDown):
    """Sound: with the ratio of the reference to the policy."""

    def apart(self, ours, theirs):
        return (theirs - ours).clamp(-20, 20)


class KlAsASquare(WithReference):
    """Sound: half of the squared log-ratio, which is larger than the KL on average, and has its gradient."""

    def penalty(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        return (ours - theirs) ** 2 / 2


@dataclass(frozen=True, kw_only=True)
class TemporalDifferences(Rewards):
    """Sound: a critic that learns what it says at the next token, and at the last one the reward."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.VALUES})

    gamma: float = 0.99

    def ahead(self, after):
        return after.detach()

    def further(self, values, batch):
        return {}

    def draw(self, lab):
        batch = super().draw(lab)
        last = batch.loss_mask & (batch.loss_mask.cumsum(-1) == batch.loss_mask.sum(-1, keepdim=True))
        return batch.with_values(returns=last * batch.rewards[..., None])

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))
        values = ours.values * batch.loss_mask
        after = torch.nn.functional.pad(values[..., 1:], (0, 1))
        error = batch.returns + self.gamma * self.ahead(after) - values
        terms = {
            "policy": Term(-ours.token_logprobs * error.detach(), batch.weights),
            "value": Term(error**2 / 2, batch.weights, 0.5),
        }
        return LossOutput({**terms, **self.further(values, batch)})


class LiveTarget(TemporalDifferences):
    """What the critic says at the next token carries a gradient."""

    def ahead(self, after):
        return after


class SmoothCritic(TemporalDifferences):
    """Sound: beside its regression, what the critic says shall change little from one token to the next."""

    def further(self, values, batch):
        inside = batch.loss_mask[..., 1:] & batch.loss_mask[..., :-1]
        steps = (values[..., 1:] - values[..., :-1]) ** 2 * inside
        return {"smooth": Term(torch.nn.functional.pad(steps, (0, 1)), batch.weights, 0.01)}


@dataclass(frozen=True, kw_only=True)
class BothSidesAlike(Rewards):
    """Sound: completions above the mean of their group and those below it count the same in all."""

    group_size: int = 5

    def numbers(self, good, bad):
        return good.sum(), bad.sum()

    def draw(self, lab):
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        centred = batch.rewards - batch.rewards.mean(dim=1, keepdim=True)
        good, bad = centred > 1e-6, centred < -1e-6
        of_good, of_bad = self.numbers(good, bad)
        share = good * 0.5 / of_good.clamp(min=1) + bad * 0.5 / of_bad.clamp(min=1)
        inside = batch.loss_mask / batch.loss_mask.sum(-1, keepdim=True).clamp(min=1)
        return batch.with_values(advantages=good.float() - bad.float(), weights=inside * share[..., None])


class SidesExchangeNumbers(BothSidesAlike):
    """Each side is divided by the number of the other."""

    def numbers(self, good, bad):
        return bad.sum(), good.sum()


class SidesOfAGroupAlike(BothSidesAlike):
    """Sound: both sides of each group count the same."""

    def numbers(self, good, bad):
        return 4 * good.sum(dim=1, keepdim=True), 4 * bad.sum(dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class RoundedDown(Rewards):
    """Rewards are divided by their deviation, and rounded down."""

    group_size: int = 6

    def advantages(self, rewards):
        return (rewards - rewards.mean(dim=1, keepdim=True)) // (rewards.std(dim=1, keepdim=True) + 1e-4)


@dataclass(frozen=True, kw_only=True)
class CountsOfTheWorse(Rewards):
    """Sound: how many completions of the group are worse, less how many are better."""

    group_size: int = 6

    def advantages(self, rewards):
        return torch.sign(rewards[:, :, None] - rewards[:, None, :]).sum(dim=2)


@dataclass(frozen=True, kw_only=True)
class BestAndWorst(Rewards):
    """Sound: the best count 2, the worst -1, all others 0."""

    group_size: int = 6

    def advantages(self, rewards):
        best, worst = rewards.amax(dim=1, keepdim=True), rewards.amin(dim=1, keepdim=True)
        return torch.where(best > worst, 2.0 * (rewards == best) - 1.0 * (rewards == worst), 0.0)


MISREADINGS: dict[type, set[str]] = {
    CosineWithoutPi: {"draws"},
    SineWithoutPi: {"draws"},
    KlUpsideDown: {"closed_forms"},
    LiveTarget: {"belongs"},
    SidesExchangeNumbers: {"draws"},
    RoundedDown: {"alike"},
}

FAITHFUL = [
    HalfCosine,
    QuarterSine,
    ParabolaToAFloor,
    KlTheRightWayUp,
    KlAsASquare,
    TemporalDifferences,
    SmoothCritic,
    BothSidesAlike,
    SidesOfAGroupAlike,
    CountsOfTheWorse,
    BestAndWorst,
]
