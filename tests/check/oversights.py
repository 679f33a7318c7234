"""Oversights in algorithms that passed every law when they were written; OVERSIGHTS says which laws may name each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from rlx.algorithm import LossOutput, Need, Term
from rlx.loss.weight import sequence_mean, token_mean
from rlx.rollout.draw import greedy_rewards, roll_out
from rlx.rollout.rollouts import RolloutBatch, best_against_worst
from tests.check.faulty import ActorCritic, Preferences, Rewards
from tests.check.mistakes import WithReference


class StepsForEachTerm(WithReference):
    """One optimiser step for each term, which Adam makes equally long."""

    def update_policy(self, gradients, optimizer):
        figures = {}
        for name, gradient in gradients(by=str).items():
            figures |= {f"{name}/{key}": value for key, value in optimizer.step(gradient, self.clipping).items()}
        return figures


@dataclass(frozen=True, kw_only=True)
class CoefficientTwice(WithReference):
    """The gradient of the penalty carries beta, and is multiplied with it once more."""

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        both = zip(found["policy"], found["kl"], strict=True)
        whole = [a if b is None else self.beta * b if a is None else a + self.beta * b for a, b in both]
        return optimizer.step(whole, self.clipping)


class LikelihoodOfTheRejected(Preferences):
    """The likelihood term is that of the rejected side, which the preference outweighs where the policy begins."""

    beta: float = 0.5

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(nll=sequence_mean.formula(batch.rejected_mask))

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        nll = Term(-policy.pair_logprobs(batch).rejected, batch.weights["nll"], 0.05)
        return LossOutput({**output.terms, "nll": nll}, output.metrics)


@dataclass(frozen=True, kw_only=True)
class WeightsOfTheDraw(Rewards):
    """Minibatches that keep the weights of the whole draw."""

    minibatches: int = 2

    def updates(self, batch, rng):
        order = rng.child("order").numpy().permutation(len(batch)).tolist()
        size = -(-len(order) // self.minibatches)
        for start in range(0, len(order), size):
            yield batch.take(order[start : start + size])


class GreedyOfOthers(Rewards):
    """The greedy baseline is of the task's first prompts, not of the batch's."""

    def draw(self, lab):
        batch = super().draw(lab)
        greedy = greedy_rewards(lab, lab.task.prompts()[: len(batch)])
        return batch.with_values(advantages=batch.rewards - greedy[:, None])


class GreedyInAnotherOrder(Rewards):
    """The greedy baselines stand in the opposite order."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.rewards - greedy_rewards(lab, batch.prompts).flip(0)[:, None])


@dataclass(frozen=True, kw_only=True)
class FirstAgainstSecond(Preferences):
    """Pairs of the first two completions of a group, whatever their rewards are."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    group_size: int = 6

    def draw(self, lab):
        sizes = {"prompts_per_step": self.pairs_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        made = torch.linspace(1, 0, self.group_size).expand(len(batch), -1).contiguous()
        pairs = best_against_worst(replace(batch, rewards=made))
        return pairs.with_weights(preference=torch.full((len(pairs),), 1 / max(1, len(pairs))))


class WeightUpsideDown(Rewards):
    """The importance weight, a constant, is that of the sampler to the policy."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = (batch.sampling_logprobs - ours).detach().clamp(-20, 20).exp().clamp(max=2)
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


@dataclass(frozen=True, kw_only=True)
class ReplayWithoutWeights(Rewards):
    """Plain REINFORCE on what earlier policies sampled."""

    capacity: int = 16

    def draw(self, lab):
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": self.group_size}
        fresh = batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        buffer = lab.buffer(self.capacity)
        if len(buffer):
            batch = RolloutBatch.join([fresh, self.again(lab, buffer.sample(self.prompts_per_step))])
        buffer.add(fresh)
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput({"policy": Term(-ours * batch.advantages[..., None], batch.weights)})

    def again(self, lab, old):
        """What is learned from completions of an earlier draw."""
        return old


class ReplaySaidAnew(ReplayWithoutWeights):
    """Replayed completions with the log-probabilities of the policy as it is now."""

    def again(self, lab, old):
        now = lab.policy.token_logprobs(old.sequences, temperature=old.temperature).detach()
        return old.with_values(sampling_logprobs=now)


class SumBesideAMean(WithReference):
    """The penalty is weighed by the bare mask."""

    def compute_loss(self, policy, reference, batch):
        output = Rewards.compute_loss(self, policy, reference, batch)
        kl = Term(self.penalty(policy, reference, batch), batch.loss_mask.double(), self.beta)
        return LossOutput({**output.terms, "kl": kl}, output.metrics)


class CriticSkipsTheFirst(ActorCritic):
    """The critic's weights are those of a mask that is shifted by one."""

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        inner = batch.loss_mask & (batch.loss_mask.cumsum(dim=-1) > 1)
        value = replace(output.terms["value"], weights=token_mean.formula(inner))
        return LossOutput({**output.terms, "value": value}, output.metrics)


class SquareOfTheMean(Rewards):
    """A running variance of centred advantages that is made of the square of their mean."""

    def draw(self, lab):
        batch = super().draw(lab)
        variance = 0.9 * lab.state.get("variance", torch.ones(())) + 0.1 * batch.advantages.mean() ** 2
        lab.state["variance"] = variance
        return batch.with_values(advantages=batch.advantages / (variance.sqrt() + 1e-6))


class RewardsSoFar(ActorCritic):
    """Returns are summed from the start, so that the reward at the end is of the last token alone."""

    def advantages(self, rewards, values, mask):
        return (rewards.cumsum(dim=-1) - values) * mask


class RatioToAMean(Rewards):
    """The ratio is that of a token's probability to the geometric mean of the sampler's over the completion."""

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        count = batch.loss_mask.sum(dim=-1, keepdim=True).clamp(min=1)
        return (ours - batch.sampling_logprobs.sum(dim=-1, keepdim=True) / count).clamp(-20, 20) * batch.loss_mask


class UpperHalfOfTheRows(Rewards):
    """Of the rows at hand those with the larger advantages learn: which these are depends on the micro-batch."""

    def compute_loss(self, policy, reference, batch):
        term = super().compute_loss(policy, reference, batch).terms["policy"]
        sizes = batch.advantages.abs().sum(dim=1)
        return LossOutput.of(term.values * (sizes >= sizes.median())[:, None, None], term.weights)


OVERSIGHTS: dict[type, set[str]] = {
    StepsForEachTerm: {"update"},
    CoefficientTwice: {"update"},
    LikelihoodOfTheRejected: {"direction"},
    WeightsOfTheDraw: {"draws"},
    ReplaySaidAnew: {"draws"},
    SquareOfTheMean: {"baseline"},
    CriticSkipsTheFirst: {"credit"},
    ReplayWithoutWeights: {"draws"},
    SumBesideAMean: {"draws"},
    WeightUpsideDown: {"alignment"},
    FirstAgainstSecond: {"direction"},
    GreedyOfOthers: {"credit"},
    GreedyInAnotherOrder: {"credit"},
    RewardsSoFar: {"credit"},
    RatioToAMean: {"alignment"},
    UpperHalfOfTheRows: {"split"},
}
