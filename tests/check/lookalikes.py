"""Sound algorithms that a law took for a fault: no law may accuse one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput, Need, Term
from rlx.loss.weight import sequence_mean, token_mean
from rlx.rollout.draw import greedy_rewards, roll_out, sample_groups
from rlx.rollout.rollouts import RolloutBatch, best_against_worst
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.mistakes import WithReference
from tests.check.oversights import ReplayWithoutWeights


class WorstHalf(Preferences):
    """Learns the half of its pairs that is worst, found by a threshold that is a constant."""

    @property
    def couples_rows(self):
        return True

    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        values = -F.logsigmoid(self.beta * margin)
        threshold = values.detach().median()
        return LossOutput.of(torch.where(values >= threshold, values, 0.0), batch.weights["preference"])


class SmoothedLabels(Demonstrations):
    """Label smoothing over the vocabulary, which lowers what is certain."""

    smoothing: float = 0.1

    def compute_loss(self, policy, reference, batch):
        mask, tokens = batch.sequences.completion_mask, batch.sequences.completion_tokens
        logprobs = policy.logits(batch.sequences).log_softmax(dim=-1)
        values = F.nll_loss(logprobs, tokens[mask], reduction="none")
        values = (1 - self.smoothing) * values - self.smoothing * logprobs.mean(dim=-1)
        spread = torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)
        return LossOutput.of(spread[:, 0], batch.weights["nll"])


@dataclass(frozen=True, kw_only=True)
class SharpnessWithin(Preferences):
    """A sharpness-aware update whose reach is a hyperparameter."""

    reach: float = 0.05

    def update_policy(self, gradients, optimizer):
        found, before = gradients()["loss"], [parameter.detach().clone() for parameter in optimizer.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(optimizer.parameters, found, strict=True):
                if gradient is not None:
                    parameter.add_(self.reach * gradient / (gradient.norm() + 1e-12))
        found = gradients()["loss"]
        with torch.no_grad():
            for parameter, old in zip(optimizer.parameters, before, strict=True):
                parameter.copy_(old)
        return optimizer.step(found, self.clipping)


class TheTwoFurthestApart(Rewards):
    """Of each group the best and the worst completion are learned, the first ones where several are."""

    def advantages(self, rewards):
        taken = torch.zeros_like(rewards).scatter(1, rewards.argmax(dim=1, keepdim=True), 1.0)
        taken = taken.scatter(1, rewards.argmin(dim=1, keepdim=True), 1.0)
        mean = (taken * rewards).sum(dim=1, keepdim=True) / taken.sum(dim=1, keepdim=True)
        return taken * (rewards - mean)


class WithoutOutliers(Preferences):
    """Pairs that are ordered wrong by far are taken for noise and left out."""

    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(torch.where(margin > -5, -F.logsigmoid(self.beta * margin), 0.0), batch.weights["preference"])


class Steep(Preferences):
    """A squared error whose weight is so large that a usual step goes too far."""

    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of((0.1 - 1000 * self.beta * margin) ** 2, batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class TrueEntropy(Rewards):
    """An entropy bonus over the vocabulary, beside ratios clipped as a product over a completion."""

    bonus: float = 0.01

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"entropy"}))
        output = super().compute_loss(policy, reference, batch)
        return LossOutput({**output.terms, "entropy": Term(-found.entropy, batch.weights, self.bonus)}, output.metrics)


class PaysForEverything(Rewards):
    """A baseline below every reward: each completion is made likelier, the better ones more."""

    def advantages(self, rewards):
        return rewards + 0.1


class HeldToItsSampler(Rewards):
    """A penalty on leaving the sampler, either way: where it has not been left, only rounding decides its sign."""

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        apart = Term(self.log_ratio(policy, batch).abs(), batch.weights, 0.01)
        return LossOutput({**output.terms, "apart": apart}, output.metrics)


@dataclass(frozen=True, kw_only=True)
class OneAgainstTheGreedyOne(Rewards):
    """One completion a prompt, less the reward of the greedy one, which often is the same."""

    group_size: int = 1

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.rewards - greedy_rewards(lab, batch.prompts)[:, None])


class EqualSay(WithReference):
    """Gradients of terms on one length, each times its coefficient: the norm has taken it away before."""

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        weights, whole = {"policy": 1.0, "kl": self.beta}, None
        for name, parts in found.items():
            norm = torch.stack([part.norm() for part in parts if part is not None]).norm() + 1e-12
            mine = [None if part is None else weights[name] / norm * part for part in parts]
            both = None if whole is None else zip(whole, mine, strict=True)
            whole = mine if both is None else [a if b is None else b if a is None else a + b for a, b in both]
        return optimizer.step(whole, self.clipping)


@dataclass(frozen=True, kw_only=True)
class SumsInParts(Rewards):
    """A sum over tokens that no count divides, in minibatches: each has the weights of its own rows already."""

    minibatches: int = 2

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.loss_mask.double() / 100)

    def updates(self, batch, rng):
        order = rng.child("order").numpy().permutation(len(batch)).tolist()
        size = -(-len(order) // self.minibatches)
        for start in range(0, len(order), size):
            yield batch.take(order[start : start + size])


class MeanOfGreedyOnes(Rewards):
    """The mean of the greedy completions' rewards is the baseline of all."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(advantages=batch.rewards - greedy_rewards(lab, batch.prompts).mean())


class AsksLessOfLongOnes(Preferences):
    """A squared hinge of means, whose margin falls with the root of the length."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        wanted = ((ours.chosen_length + ours.rejected_length) / 2).clamp(min=1).rsqrt()
        values = (wanted - self.beta * (ours.chosen_mean - ours.rejected_mean)).clamp(min=0) ** 2
        return LossOutput.of(values, batch.weights["preference"])


class ImitatesOldOnes(ReplayWithoutWeights):
    """Completions that were better than their group are imitated as long as they are kept, without a weight."""

    def advantages(self, rewards):
        return (rewards - rewards.mean(dim=1, keepdim=True)).clamp(min=0)


class RunningDeviation(Rewards):
    """Advantages over a running deviation, which begins at 1."""

    def draw(self, lab):
        batch = super().draw(lab)
        variance = 0.9 * lab.state.get("variance", torch.ones(())) + 0.1 * (batch.advantages**2).mean()
        lab.state["variance"] = variance
        return batch.with_values(advantages=batch.advantages / (variance.sqrt() + 1e-6))


class RegressionOfReplayedOnes(ReplayWithoutWeights):
    """A squared regression of log-ratios on rewards, whose optimum is the same whoever sampled (arXiv:2404.16767)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    beta: float = 0.5

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        return batch.with_values(reference_logprobs=theirs)

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        ratio = ((ours - batch.reference_logprobs) * batch.loss_mask).sum(dim=-1)
        wrong = (self.beta * (ratio - ratio.mean(dim=1, keepdim=True)) - batch.advantages) ** 2
        return LossOutput({"policy": Term(wrong, torch.full_like(wrong, 1 / 64))})


@dataclass(frozen=True, kw_only=True)
class SparesGroupsWithoutSignal(Rewards):
    """Groups whose advantages are all 0 are left out of the update, which would teach the same with them."""

    prompts_per_step: int = 16
    group_size: int = 2

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=sequence_mean.formula(batch.loss_mask))

    def updates(self, batch, rng):
        rows = [row for row in range(len(batch)) if bool(batch.advantages[row].any())]
        yield batch.take(rows) if rows else batch


@dataclass(frozen=True, kw_only=True)
class UnlikelyTokensWeighLess(Rewards):
    """What the sampler found unlikely weighs less (arXiv:2505.12929); completions are fresh, so there is no ratio."""

    share: float = 0.3

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = self.share * batch.sampling_logprobs.exp() + 1 - self.share
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


@dataclass(frozen=True, kw_only=True)
class TokensWeighByTheirProbability(UnlikelyTokensWeighLess):
    """The same with the whole weight: the sampler's probability of the token."""

    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class RejectedOnesHaveAFloor(Preferences):
    """A rejected completion that is very unlikely already is held where it is."""

    floor: float = -20.0
    hold: float = 0.01

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        below = torch.relu(self.floor - policy.pair_logprobs(batch).rejected_sum)
        return LossOutput({**output.terms, "hold": Term(below, batch.weights["preference"], self.hold)}, output.metrics)


@dataclass(frozen=True, kw_only=True)
class TheSamePromptsAgain(Rewards):
    """Some prompts are answered afresh at every step, beside a running baseline of all rewards."""

    again: int = 4

    def draw(self, lab):
        fresh = super().draw(lab)
        batch = RolloutBatch.join(
            [fresh, sample_groups(lab, range(min(self.again, len(lab.task.prompts()))), group_size=self.group_size)]
        )
        mean = lab.state.get("mean", torch.tensor(0.5, dtype=torch.float64))
        lab.state["mean"] = 0.9 * mean + 0.1 * batch.rewards.double().mean()
        said = lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature).detach()
        values = {"advantages": self.advantages(batch.rewards), "weights": sequence_mean.formula(batch.loss_mask)}
        return batch.with_values(sampling_logprobs=said.to(batch.sampling_logprobs), **values)


@dataclass(frozen=True, kw_only=True)
class ShorterOnesAreChosen(Preferences):
    """Pairs of sampled completions that a rule of the algorithm's own judges, not the task."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    def draw(self, lab):
        sizes = {"prompts_per_step": self.pairs_per_step, "group_size": 2}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        pairs = best_against_worst(replace(batch, rewards=-batch.sequences.completion_lengths.to(batch.rewards)))
        return pairs.with_weights(preference=torch.full((len(pairs),), 1 / max(1, len(pairs))))


class GreedyBaselineOfSomeGroups(Rewards):
    """The greedy completion is the baseline; groups whose rewards are high already are left out."""

    def draw(self, lab):
        batch = super().draw(lab)
        rows = [row for row, mean in enumerate(batch.rewards.mean(dim=1).tolist()) if mean < 1.4]
        batch = batch.take(rows)
        advantages = batch.rewards - greedy_rewards(lab, batch.prompts)[:, None]
        return batch.with_values(advantages=advantages, weights=token_mean.formula(batch.loss_mask))


class TwoStepsEachWithItsGradient(Rewards):
    """Two steps an update, the second down the gradient at the weights that the first has reached."""

    def update_policy(self, gradients, optimizer):
        optimizer.step(gradients()["loss"], self.clipping)
        return optimizer.step(gradients()["loss"], self.clipping)


@dataclass(frozen=True, kw_only=True)
class CriticOfThePrompt(Rewards):
    """A learned baseline of the prompt alone: the value before the first token is the only one that is read or learned."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.VALUES})

    value_weight: float = 0.5

    def draw(self, lab):
        batch = super().draw(lab)
        with torch.no_grad():
            values = self.statistics(lab.policy, batch).values.to(batch.rewards)
        advantages = (batch.rewards[..., None] - values[..., :1]) * batch.completion_mask
        return batch.with_values(advantages=advantages, weights=sequence_mean.formula(batch.loss_mask))

    def statistics(self, policy, batch):
        return policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))

    def compute_loss(self, policy, reference, batch):
        found = self.statistics(policy, batch)
        ratio = (found.token_logprobs - batch.sampling_logprobs).clamp(-20, 20).exp()
        first = torch.zeros_like(batch.weights)
        first[..., 0] = batch.weights.sum(dim=-1)
        value = Term((found.values - batch.rewards[..., None]) ** 2, first, self.value_weight)
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights), "value": value})


@dataclass(frozen=True, kw_only=True)
class GreedyBaselineOfMiddlingGroups(Rewards):
    """The greedy completion is the baseline; groups whose mean reward is low, or high, are left out."""

    prompts_per_step: int = 16
    least: float = 0.4
    most: float = 0.8

    def draw(self, lab):
        batch = super().draw(lab)
        greedy = greedy_rewards(lab, batch.prompts)
        rows = [row for row, mean in enumerate(batch.rewards.mean(dim=1).tolist()) if self.least < mean < self.most]
        batch, greedy = batch.take(rows), greedy[rows]
        return batch.with_values(advantages=batch.rewards - greedy[:, None], weights=token_mean.formula(batch.loss_mask))


LOOKALIKES = [
    GreedyBaselineOfMiddlingGroups,
    CriticOfThePrompt,
    TwoStepsEachWithItsGradient,
    GreedyBaselineOfSomeGroups,
    ShorterOnesAreChosen,
    TheSamePromptsAgain,
    RejectedOnesHaveAFloor,
    TokensWeighByTheirProbability,
    UnlikelyTokensWeighLess,
    SparesGroupsWithoutSignal,
    RegressionOfReplayedOnes,
    RunningDeviation,
    ImitatesOldOnes,
    AsksLessOfLongOnes,
    MeanOfGreedyOnes,
    SumsInParts,
    EqualSay,
    OneAgainstTheGreedyOne,
    HeldToItsSampler,
    Steep,
    TrueEntropy,
    PaysForEverything,
    WithoutOutliers,
    TheTwoFurthestApart,
    WorstHalf,
    SmoothedLabels,
    SharpnessWithin,
]
