"""Parts taken from the wrong place; UPSETS says which laws may name each, UPRIGHT are sound algorithms with the laws they met."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm import LossOutput
from rlx.loss import token_advantage
from rlx.optimizer.step import Clipping
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.misreadings import HalfCosine
from tests.check.sound import RunningBaseline


class BaselineOfAdvantages(RunningBaseline):
    """The running mean is one of advantages: it ends at half of the rewards."""

    def draw(self, lab):
        before = lab.state.get("baseline", torch.zeros(()))
        batch = super().draw(lab)
        advantages = batch.rewards - before
        lab.state["baseline"] = self.momentum * before + (1 - self.momentum) * advantages.mean()
        return batch.with_values(advantages=advantages)


class RunningMedian(Rewards):
    """Sound: a baseline that follows the median of all rewards by steps of one size."""

    def draw(self, lab):
        batch, median = super().draw(lab), lab.state.get("median", torch.zeros(()))
        lab.state["median"] = median + 0.05 * torch.sign(batch.rewards - median).mean()
        return batch.with_values(advantages=batch.rewards - median)


class SecondHalf(Demonstrations):
    """Sound: the first half of each demonstration is given, the second is learned."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.chosen_mask
        learned = mask & (mask.cumsum(dim=1) > mask.sum(dim=1, keepdim=True) // 2)
        return batch.with_weights(nll=learned / learned.sum().clamp(min=1))


class OverlongAlone(Rewards):
    """The filter of what was cut off is the wrong way round."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask & ~batch.finished[..., None]
        return batch.with_values(weights=mask / mask.sum().clamp(min=1))


class WithoutOverlong(Rewards):
    """Sound: what was cut off is left out."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask & batch.finished[..., None]
        return batch.with_values(weights=mask / mask.sum().clamp(min=1))


class CosineWithoutEnd(HalfCosine):
    """After the half cosine the weight rises again."""

    def draw(self, lab):
        batch = super().draw(lab)
        share = 0.5 * (1 + math.cos(math.pi * lab.step / self.anneal_steps))
        return batch.with_weights(preference=batch.weights["preference"], likelihood=share * batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class CosineOfAPeriod(CosineWithoutEnd):
    """Sound: a field says that the weight comes again."""

    period: int = 100


@dataclass(frozen=True, kw_only=True)
class LengthIsPraised(Rewards):
    """The cost of length is added."""

    length_penalty: float = 0.01
    sign = 1

    def draw(self, lab):
        batch = super().draw(lab)
        rewards = batch.rewards + self.sign * self.length_penalty * batch.sequences.completion_lengths
        return batch.with_values(advantages=self.advantages(rewards))


class LengthCosts(LengthIsPraised):
    """Sound: it is subtracted."""

    sign = -1


class ClippedEach(Preferences):
    """The clip is one of each parameter's gradient."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if self.max_grad_norm is None:
            return optimizer.step(found, self.clipping)
        found = [g if g is None else g * min(1.0, self.max_grad_norm / (float(g.norm()) + 1e-6)) for g in found]
        return optimizer.step(found, Clipping(max_grad_norm=None))


class Scaled(Preferences):
    """Sound: the clip of the norm of all gradients together, by hand."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        norm = float(torch.stack([g.norm() for g in found if g is not None]).norm())
        share = 1.0 if self.max_grad_norm is None else min(1.0, self.max_grad_norm / (norm + 1e-6))
        return optimizer.step([g if g is None else g * share for g in found], Clipping(max_grad_norm=None))


class SquashedTwice(Preferences):
    """A probability stands for the logit."""

    def compute_loss(self, policy, reference, batch):
        margin = self.beta * self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        chances = torch.sigmoid(margin)
        values = F.binary_cross_entropy_with_logits(chances, torch.ones_like(chances), reduction="none")
        return LossOutput.of(values, batch.weights["preference"])


@token_advantage
def averaged(token_rewards, completion_mask, *, gamma=0.8):
    """Sound: discounted returns times 1 - gamma, means of the rewards to come."""
    found, running = torch.zeros_like(token_rewards), torch.zeros_like(token_rewards[..., 0])
    for place in reversed(range(token_rewards.shape[-1])):
        running = token_rewards[..., place] + gamma * running
        found[..., place] = running
    return (1 - gamma) * found * completion_mask


@token_advantage
def discounted_from_the_start(token_rewards, completion_mask, *, gamma=0.9):
    """A reward is discounted by its place in the completion."""
    powers = gamma ** torch.arange(token_rewards.shape[-1], dtype=token_rewards.dtype)
    return (token_rewards * powers).flip(-1).cumsum(-1).flip(-1) * completion_mask


def of_tokens(advantage: Any) -> Any:
    return replace(rlx.load("algorithm", "ppo"), advantage=advantage())


UPSETS: list[tuple[Any, str]] = [
    (BaselineOfAdvantages, "baseline"),
    (OverlongAlone, "tokens"),
    (CosineWithoutEnd, "draws"),
    (LengthIsPraised, "direction"),
    (ClippedEach, "update"),
    (SquashedTwice, "closed_forms"),
    (lambda: of_tokens(discounted_from_the_start), "credit"),
]

UPRIGHT: list[tuple[Any, str]] = [
    (RunningBaseline, "baseline"),
    (RunningMedian, "baseline"),
    (SecondHalf, "tokens"),
    (WithoutOverlong, "tokens"),
    (CosineOfAPeriod, "draws"),
    (LengthCosts, "direction"),
    (Scaled, "update"),
    (lambda: of_tokens(averaged), "length"),
    (lambda: of_tokens(averaged), "credit"),
]
