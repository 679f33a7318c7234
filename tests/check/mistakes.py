"""Mistakes as researchers make them, each in an algorithm of its own; MISTAKES says which law names each.

They were written before the laws were tuned on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlx.algorithm import AlgorithmType, LossOutput, Need, Term, mean_of
from rlx.loss.weight import token_mean
from rlx.optimizer.step import Clipping
from tests.check.faulty import ActorCritic, Demonstrations, Preferences, Rewards


def sequence_weights(batch):
    return torch.full(batch.rewards.shape, 1 / batch.rewards.numel())


@dataclass(frozen=True, kw_only=True)
class WithReference(Rewards):
    """Group-relative policy gradients with a penalty; the base of faulty ones."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    beta: float = 0.1

    def penalty(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        apart = (theirs - ours).clamp(-20, 20)
        return apart.exp() - apart - 1

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        kl = Term(self.penalty(policy, reference, batch), batch.weights, self.beta)
        return LossOutput({**output.terms, "kl": kl}, output.metrics)


class NormalisedByMovedTokens(Rewards):
    """The mean of a completion's log-ratios over those that are not 0."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=sequence_weights(batch))

    def compute_loss(self, policy, reference, batch):
        log_ratio = self.log_ratio(policy, batch)
        moved = (log_ratio.abs() > 0).sum(dim=-1).clamp(min=1)
        ratio = (log_ratio.sum(dim=-1) / moved).exp()
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights)})


class WeighedByASequenceProbability(Rewards):
    """A token's weight is the probability of the whole completion where its geometric mean was meant."""

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        likely = batch.sampling_logprobs.sum(dim=-1, keepdim=True).exp()
        return LossOutput({"policy": Term(output.terms["policy"].values * likely, batch.weights)}, output.metrics)


class LogRatioAsAPenalty(WithReference):
    """k1 as a term of its own."""

    def penalty(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        return ours - theirs


class SquaredDistanceToTheSampler(WithReference):
    """k2, with the old log-probabilities in the place of the reference's, which are logged."""

    def penalty(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (ours - batch.sampling_logprobs) ** 2 / 2

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        theirs = reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput(output.terms, {**output.metrics, "reference_logprobs": mean_of(theirs, batch.loss_mask)})


class ValuesOverTheWholeRow(ActorCritic):
    """The critic's error goes over prompt and completion."""

    def compute_loss(self, policy, reference, batch):
        output, errors = super().compute_loss(policy, reference, batch), []
        for prompt, (tokens,), reward in zip(
            batch.sequences.prompts, batch.sequences.completions, batch.rewards[:, 0], strict=True
        ):
            row = torch.from_numpy(np.concatenate([prompt, tokens]))[None]
            hidden = policy.model(input_ids=row, output_hidden_states=True).hidden_states[-1]
            errors.append(((policy.value_head(hidden) - reward) ** 2).mean())
        value = Term(torch.stack(errors), torch.full((len(batch),), 1 / self.prompts_per_step), self.value_weight)
        return LossOutput({**output.terms, "value": value}, output.metrics)


class WrapsAroundAtTheEnd(ActorCritic):
    """After the last token comes the value of the first one."""

    def advantages(self, rewards, values, mask):
        after = values.roll(-1, dims=-1)
        errors = (rewards + self.gamma * after - values) * mask
        found, ahead = torch.zeros_like(values), torch.zeros_like(values[..., 0])
        for place in reversed(range(values.shape[-1])):
            ahead = errors[..., place] + self.gamma * self.trace * ahead
            found[..., place] = ahead
        return found * mask


class RewardAtTheFirstToken(ActorCritic):
    def advantages(self, rewards, values, mask):
        first = torch.zeros_like(rewards)
        first[..., 0] = rewards.sum(dim=-1)
        return super().advantages(first * mask, values, mask)


class ReturnsAreAdvantages(ActorCritic):
    """The critic learns the advantage."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(returns=batch.advantages)


class TheSmallerValueError(ActorCritic):
    """PPO's clip of the critic, with the smaller of the two errors."""

    def error(self, found, batch):
        before = batch.returns - batch.advantages
        held = torch.maximum(torch.minimum(found.values, before + 0.2), before - 0.2)
        return torch.minimum((found.values - batch.returns) ** 2, (held - batch.returns) ** 2)


class BaselineOfAnotherPrompt(Rewards):
    """[P, G] read as [G, P]."""

    def advantages(self, rewards):
        return rewards - rewards.reshape(self.group_size, -1).mean(dim=0)[:, None].expand_as(rewards)


class ClipsBeforeItHasGradients(Demonstrations):
    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        torch.nn.utils.clip_grad_norm_(optimizer.parameters, self.max_grad_norm)
        for parameter, gradient in zip(optimizer.parameters, found, strict=True):
            parameter.grad = gradient
        optimizer.torch_optimizer.step()
        optimizer.torch_optimizer.zero_grad()
        return {}


@dataclass(frozen=True, kw_only=True)
class SameGradientAgain(Preferences):
    """Epochs that step with the first gradient."""

    epochs: int = 3

    def update_policy(self, gradients, optimizer):
        found, figures = gradients()["loss"], {}
        for _ in range(self.epochs):
            figures = optimizer.step(found, self.clipping)
        return figures


class DividesByTheRowsAgain(Preferences):
    def update_policy(self, gradients, optimizer):
        rows = len(gradients.batch)
        return optimizer.step([None if part is None else part / rows for part in gradients()["loss"]], self.clipping)


class FirstColumn(Rewards):
    """[:, 0] where every completion was meant."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=token_mean.formula(batch.loss_mask[:, 0]))

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).exp()[:, 0]
        weights = batch.weights[..., : ratio.shape[-1]] if batch.weights.ndim == 2 else batch.weights[:, 0]
        return LossOutput({"policy": Term(-ratio * batch.advantages[:, :1], weights)})


class LiveBaseline(Rewards):
    """The baseline is the mean of reweighted rewards, with its gradient."""

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).exp()
        sequence = (self.log_ratio(policy, batch).sum(dim=-1)).clamp(-5, 5).exp()
        baseline = (sequence * batch.rewards).mean(dim=1, keepdim=True)
        return LossOutput({"policy": Term(-ratio * (batch.rewards - baseline)[..., None], batch.weights)})


class PenaltyOnTheRejected(Preferences):
    """DPO-positive's penalty on the side that shall lose likelihood."""

    def compute_loss(self, policy, reference, batch):
        output, ours, theirs = (
            super().compute_loss(policy, reference, batch),
            policy.pair_logprobs(batch),
            reference.pair_logprobs(batch),
        )
        lost = torch.relu(theirs.rejected_sum - ours.rejected_sum)
        return LossOutput({**output.terms, "lost": Term(lost, batch.weights["preference"], 0.5)}, output.metrics)


class LogRatioClippedAroundOne(Rewards):
    """clip(1 - e, 1 + e) of a log-ratio."""

    def compute_loss(self, policy, reference, batch):
        log_ratio, advantages = self.log_ratio(policy, batch), batch.advantages[..., None]
        clipped = log_ratio.clamp(0.8, 1.2).exp()
        surrogate = torch.minimum(log_ratio.exp() * advantages, clipped * advantages)
        return LossOutput({"policy": Term(-surrogate, batch.weights)})


class RatioToItself(Rewards):
    """The old log-probabilities are taken anew at every update: the ratio is 1 and no clip ever acts."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        with torch.no_grad():
            old = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        ratio, advantages = (ours - old).exp(), batch.advantages[..., None]
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        return LossOutput({"policy": Term(-surrogate, batch.weights)})


_RUNNING: dict[str, Any] = {"mean": 0.0, "seen": 0}


class ModuleLevelBaseline(Rewards):
    def advantages(self, rewards):
        _RUNNING["seen"] += 1
        _RUNNING["mean"] += (float(rewards.mean()) - _RUNNING["mean"]) / _RUNNING["seen"]
        return rewards - _RUNNING["mean"]


class SeedFromTheClock(Rewards):
    def advantages(self, rewards):
        generator = torch.Generator().manual_seed(time.time_ns() % 2**31)
        return super().advantages(rewards) + 1e-3 * torch.randn(rewards.shape, generator=generator)


class GlobalPermutation(Rewards):
    def updates(self, batch, rng):
        order = torch.randperm(len(batch)).tolist()
        yield batch.take(order)


class ReferenceIsAveraged(Preferences):
    """A sum on one side of the log-ratio, a mean on the other."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        margin = (ours.chosen_sum - theirs.chosen_mean) - (ours.rejected_sum - theirs.rejected_mean)
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class SmoothingOfTheWrongSign(Preferences):
    label_smoothing: float = 0.1

    def compute_loss(self, policy, reference, batch):
        margin = self.beta * self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        values = -(1 - self.label_smoothing) * F.logsigmoid(margin) + self.label_smoothing * F.logsigmoid(-margin)
        return LossOutput.of(values, batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class CreditFromTheWrongEnd(WithReference):
    """A KL in the rewards of tokens; each token is credited with what came before it."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        mask = batch.completion_mask
        rewards = -self.beta * (batch.sampling_logprobs - theirs) * mask
        rewards = rewards + batch.advantages[..., None] * (mask & ~F.pad(mask, (0, 1))[..., 1:])
        return batch.with_values(advantages=rewards.cumsum(dim=-1) * mask)

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).exp()
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights)})


class KlRewardOfTheWrongSign(WithReference):
    """The distance to the reference is paid for."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = ((batch.sampling_logprobs - theirs) * batch.completion_mask).sum(dim=-1)
        return batch.with_values(advantages=self.advantages(batch.rewards + self.beta * drift))

    def compute_loss(self, policy, reference, batch):
        return Rewards.compute_loss(self, policy, reference, batch)


class UnshiftedLabels(Demonstrations):
    """The logits of a token are held against that token, not the next one."""

    def compute_loss(self, policy, reference, batch):
        values = []
        for prompt, (tokens, *_) in zip(batch.sequences.prompts, batch.sequences.completions, strict=True):
            row = torch.from_numpy(np.concatenate([prompt, tokens]))[None]
            logprobs = F.log_softmax(policy.model(input_ids=row).logits, dim=-1)
            values.append(-logprobs.gather(-1, row[..., None])[0, len(prompt) :, 0].sum())
        return LossOutput.of(torch.stack(values), torch.full((len(batch),), 1 / self.pairs_per_step))


class FirstMinibatchAgain(Rewards):
    """The start of the slice never moves."""

    def updates(self, batch, rng):
        half = max(1, len(batch) // 2)
        for _ in range(2):
            part = batch[0:half]
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


class PaddedWidthInTheWeights(Rewards):
    """Divided by the longest completion of the batch, where the longest allowed was meant."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.completion_mask
        return batch.with_values(weights=mask.double() / (mask.shape[0] * mask.shape[1] * mask.shape[2]))


class BothSidesOfPairsAreLearned(Demonstrations):
    """Supervised learning of every completion of the pairs, rejected ones too."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED

    def draw(self, lab):
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(nll=token_mean.formula(batch.sequences.completion_mask))

    def compute_loss(self, policy, reference, batch):
        logprobs = policy.token_logprobs(batch.sequences)
        return LossOutput.of(-logprobs, batch.weights["nll"])


class BothDividedByTheChosenLength(Preferences):
    def margin(self, ours, theirs):
        return super().margin(ours, theirs) / ours.chosen_length.clamp(min=1)


class HalfOfThePairsWeighNothing(Preferences):
    def draw(self, lab):
        batch = super().draw(lab)
        places = torch.arange(len(batch))
        return batch.with_weights(preference=(places < len(batch) // 2).double() * 2 / len(batch))


class ChosenUnderTheOtherMask(Preferences):
    def margin(self, ours, theirs):
        chosen = ((ours.chosen - theirs.chosen) * ours.rejected_mask).sum(dim=1)
        return chosen - (ours.rejected_sum - theirs.rejected_sum)


class NoMarginIsAskedFor(Preferences):
    """A hinge that is flat where the policy is its reference."""

    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(F.relu(-self.beta * margin), batch.weights["preference"])


class ClipsEntriesNotTheNorm(Preferences):
    def update_policy(self, gradients, optimizer):
        limit = self.max_grad_norm
        clipped = [None if part is None else part.clamp(-limit, limit) for part in gradients()["loss"]]
        return optimizer.step(clipped, Clipping())


class OthersDividedByTheGroup(Rewards):
    """A leave-one-out baseline whose sum is divided by the size of the group."""

    def advantages(self, rewards):
        return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / self.group_size


class KlInRewardAndLoss(WithReference):
    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        drift = ((batch.sampling_logprobs - theirs) * batch.completion_mask).sum(dim=-1)
        return batch.with_values(advantages=self.advantages(batch.rewards - self.beta * drift))


class ReferenceIsThePolicyAtTheDraw(WithReference):
    """The reference is asked, and then the policy's own log-probabilities are taken."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        ours = lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return batch.with_values(reference_logprobs=theirs).with_values(reference_logprobs=ours)

    def penalty(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (batch.reference_logprobs - ours) ** 2 / 2


@dataclass(frozen=True, kw_only=True)
class CriticGoesUpItsError(ActorCritic):
    gamma: float = 0.98

    def error(self, found, batch):
        return -super().error(found, batch)


class AdvantagesAreTheTargets(ActorCritic):
    def error(self, found, batch):
        return (found.values - batch.advantages) ** 2


@dataclass(frozen=True, kw_only=True)
class ValueOfTheSameToken(ActorCritic):
    """The value after a token is taken from the token itself."""

    gamma: float = 0.9

    def advantages(self, rewards, values, mask):
        found, ahead = torch.zeros_like(values), torch.zeros_like(values[..., 0])
        for place in reversed(range(values.shape[-1])):
            error = rewards[..., place] + (self.gamma - 1) * values[..., place]
            ahead = (error + self.gamma * self.trace * ahead) * mask[..., place]
            found[..., place] = ahead
        return found


class RewardAtTheLastColumn(ActorCritic):
    """Only the longest completions keep their reward."""

    def draw(self, lab):
        batch = super().draw(lab)
        values, mask = self.statistics(lab.policy, batch).values.detach().cpu(), batch.completion_mask
        rewards = torch.zeros_like(values)
        rewards[..., -1] = batch.rewards.to(values)
        advantages = self.advantages(rewards * mask, values, mask)
        return batch.with_values(advantages=advantages, returns=advantages + values)


class EveryOtherToken(Rewards):
    """A slice with a step where the prompt was to be left out."""

    def draw(self, lab):
        batch = super().draw(lab)
        weights = batch.weights.clone()
        weights[..., 1::2] = 0
        return batch.with_values(weights=weights)


class DividedByTheTemperature(Rewards):
    """The sampler's log-probabilities are at the temperature already."""

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (ours - batch.sampling_logprobs / batch.temperature).clamp(-20, 20)


class SecondClipOfTheGood(Rewards):
    """A dual clip on the wrong sign of the advantage."""

    def compute_loss(self, policy, reference, batch):
        ratio, advantages = self.log_ratio(policy, batch).exp(), batch.advantages[..., None]
        clipped = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        values = torch.where(advantages > 0, torch.maximum(clipped, 3 * advantages), clipped)
        return LossOutput({"policy": Term(-values, batch.weights)})


class CriticIsNotStepped(ActorCritic):
    """An update that takes the gradient of the policy's term alone."""

    def update_policy(self, gradients, optimizer):
        return optimizer.step(gradients(by=str)["policy"], self.clipping)


class WeighedByTheLengthAgain(Rewards):
    """The sum over tokens is weighed by the length once more."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask.double()
        weights = mask * mask.sum(-1, keepdim=True)
        return batch.with_values(weights=weights / weights.sum().clamp(min=1))


class WeightsAreSorted(Preferences):
    """Weights of the reference's margins, which a look at them has sorted."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.pair_logprobs(batch)
        weights = torch.sigmoid((theirs.chosen_sum - theirs.rejected_sum) / 4).sort().values
        return batch.with_weights(preference=weights / weights.sum())


class PairsDividedByTheWidth(Preferences):
    """The number of columns in the place of the number of rows."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(preference=torch.full((len(batch),), 1 / batch.sequences.completion_mask.shape[-1]))


class RatioToTheReference(WithReference):
    """The reference's log-probabilities in the place of the sampler's."""

    def compute_loss(self, policy, reference, batch):
        theirs = reference.token_logprobs(batch.sequences, temperature=batch.temperature)
        output = super().compute_loss(policy, reference, batch.with_values(sampling_logprobs=theirs))
        return LossOutput(output.terms, {})


class ProductIsClipped(Rewards):
    """A clip of ratio times advantage."""

    def compute_loss(self, policy, reference, batch):
        product = self.log_ratio(policy, batch).exp() * batch.advantages[..., None]
        return LossOutput({"policy": Term(-torch.minimum(product, product.clamp(0.8, 1.2)), batch.weights)})


class PenaltyTimesTheAdvantage(WithReference):
    """A bracket too far."""

    def penalty(self, policy, reference, batch):
        return super().penalty(policy, reference, batch) * batch.advantages[..., None]


class WhitenedWithThePadding(ActorCritic):
    """Mean and deviation of all columns."""

    def advantages(self, rewards, values, mask):
        found = super().advantages(rewards, values, mask)
        return (found - found.mean()) / (found.std() + 1e-6)


MISTAKES: dict[type, set[str]] = {
    HalfOfThePairsWeighNothing: {"tokens"},
    ChosenUnderTheOtherMask: {"tokens"},
    NoMarginIsAskedFor: {"direction"},
    ClipsEntriesNotTheNorm: {"update"},
    OthersDividedByTheGroup: {"baseline"},
    KlInRewardAndLoss: {"anchor"},
    ReferenceIsThePolicyAtTheDraw: {"belongs"},
    CriticGoesUpItsError: {"credit"},
    AdvantagesAreTheTargets: {"credit"},
    ValueOfTheSameToken: {"credit"},
    RewardAtTheLastColumn: {"credit"},
    NormalisedByMovedTokens: {"length"},
    WeighedByASequenceProbability: {"length"},
    LogRatioAsAPenalty: {"anchor", "objective"},
    SquaredDistanceToTheSampler: {"anchor", "objective"},
    ValuesOverTheWholeRow: {"prompt"},
    WrapsAroundAtTheEnd: {"credit"},
    RewardAtTheFirstToken: {"credit"},
    ReturnsAreAdvantages: {"credit"},
    TheSmallerValueError: {"credit"},
    BaselineOfAnotherPrompt: {"alike"},
    ClipsBeforeItHasGradients: {"update"},
    SameGradientAgain: {"update"},
    DividesByTheRowsAgain: {"update"},
    FirstColumn: {"tokens"},
    LiveBaseline: {"direction", "objective"},
    PenaltyOnTheRejected: {"reference"},
    LogRatioClippedAroundOne: {"clip"},
    RatioToItself: {"clip"},
    ModuleLevelBaseline: {"repeats"},
    SeedFromTheClock: {"repeats"},
    GlobalPermutation: {"repeats"},
    ReferenceIsAveraged: {"reference"},
    SmoothingOfTheWrongSign: {"closed_forms"},
    CreditFromTheWrongEnd: {"length"},
    KlRewardOfTheWrongSign: {"anchor", "objective"},
    UnshiftedLabels: {"prompt"},
    FirstMinibatchAgain: {"draws"},
    PaddedWidthInTheWeights: {"length"},
    BothSidesOfPairsAreLearned: {"direction"},
    BothDividedByTheChosenLength: {"closed_forms"},
    EveryOtherToken: {"tokens"},
    DividedByTheTemperature: {"temperature"},
    SecondClipOfTheGood: {"clip"},
    CriticIsNotStepped: {"update"},
    WeighedByTheLengthAgain: {"length"},
    WeightsAreSorted: {"order"},
    PairsDividedByTheWidth: {"padding"},
    RatioToTheReference: {"alignment"},
    ProductIsClipped: {"clip"},
    PenaltyTimesTheAdvantage: {"anchor"},
    WhitenedWithThePadding: {"padding"},
}
