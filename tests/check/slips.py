"""Slips of researchers who port a paper, each in an algorithm of its own; SLIPS says which laws may name it.

They were written without a look at the laws, and passed all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from rlx.algorithm import LossOutput, Term
from rlx.data.preferences import PairBatch
from rlx.rollout.draw import roll_out
from rlx.rollout.rollouts import RolloutBatch
from tests.check.faulty import Demonstrations, Preferences, Rewards

_MOMENTUM: dict[str, Any] = {}


class MomentumOfTheModule(Preferences):
    """A momentum in a variable of the module."""

    def update_policy(self, gradients, optimizer):
        found, before = gradients()["loss"], _MOMENTUM.get("before")
        if before is not None and [part.shape for part in before] == [part.shape for part in found]:
            found = [0.9 * old + part for old, part in zip(before, found, strict=True)]
        _MOMENTUM["before"] = found
        return optimizer.step(found, self.clipping)


@dataclass(frozen=True, kw_only=True)
class MomentumOfTheAlgorithm(Preferences):
    """A momentum in a field of the algorithm, which meets batches of other lengths."""

    kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if "before" in self.kept:
            found = [0.9 * old + part for old, part in zip(self.kept["before"], found, strict=True)]
        self.kept["before"] = found
        return optimizer.step(found, self.clipping)


class MomentumOnTheOptimizer(Preferences):
    """A momentum in an attribute of the optimiser, which is not in its state."""

    def update_policy(self, gradients, optimizer):
        found = gradients()["loss"]
        if hasattr(optimizer, "before"):
            found = [0.9 * old + part for old, part in zip(optimizer.before, found, strict=True)]
        optimizer.before = found
        return optimizer.step(found, self.clipping)


def spread_over(mask, values):
    """[B, T] of one value for each token where the mask holds."""
    return torch.zeros(mask.shape, dtype=values.dtype).masked_scatter(mask, values)


class CrossEntropyOfProbabilities(Demonstrations):
    """The softmax is taken twice: once by hand, once by the cross entropy."""

    def compute_loss(self, policy, reference, batch):
        mask, probabilities = batch.sequences.completion_mask, policy.logits(batch.sequences).softmax(dim=-1)
        values = F.cross_entropy(probabilities, self.targets(batch.sequences), reduction="none")
        return LossOutput.of(self.sign * spread_over(mask, values)[:, 0], batch.weights["nll"])

    sign = 1

    def targets(self, sequences):
        return sequences.completion_tokens[sequences.completion_mask]


class LikelihoodOfLogitsWithAPlus(CrossEntropyOfProbabilities):
    """The sign of a likelihood that is read off the logits."""

    sign = 1

    def compute_loss(self, policy, reference, batch):
        mask, logprobs = batch.sequences.completion_mask, policy.logits(batch.sequences).log_softmax(dim=-1)
        values = logprobs.gather(-1, self.targets(batch.sequences)[:, None])[:, 0]
        return LossOutput.of(self.sign * spread_over(mask, values)[:, 0], batch.weights["nll"])


class TargetsOfThePlaceBefore(LikelihoodOfLogitsWithAPlus):
    """Logits that are shifted already are held against shifted tokens."""

    sign = -1

    def targets(self, sequences):
        tokens = sequences.completion_tokens
        return torch.cat([tokens[..., :1], tokens[..., :-1]], dim=-1)[sequences.completion_mask]


class FocalWeightIsLive(Demonstrations):
    """-p log p, whose weight p should be a constant: it falls again where a token is unlikely."""

    def compute_loss(self, policy, reference, batch):
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs.exp() * logprobs, batch.weights["nll"])


class ChosenNeverEnds(Preferences):
    """The last token of chosen completions is left out, that of rejected ones is not."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        goes_on = torch.cat([ours.chosen_mask[:, 1:], torch.zeros_like(ours.chosen_mask[:, :1])], dim=1)
        chosen = ((ours.chosen - theirs.chosen) * goes_on).sum(dim=1)
        margin = chosen - (ours.rejected_sum - theirs.rejected_sum)
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


class PolicyIsAMeanReferenceASum(Preferences):
    """A margin of means, less one of sums."""

    def margin(self, ours, theirs):
        return 10 * ((ours.chosen_mean - ours.rejected_mean) - (theirs.chosen_sum - theirs.rejected_sum))


class LearnsWhatIsFilteredOut(Rewards):
    """Truncated completions are filtered out of the loss, and its weights are those of all."""

    def draw(self, lab):
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=True)
        mask = batch.completion_mask.double()
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=mask / mask.sum())


class RanksOfTies(Rewards):
    """Advantages are ranks, and the first of two equal rewards has the lower one."""

    def advantages(self, rewards):
        ranks = rewards.argsort(dim=1, stable=True).argsort(dim=1).to(rewards.dtype)
        return ranks - ranks.mean(dim=1, keepdim=True)


class AdvantagesOfTheFreshTwice(Rewards):
    """Replayed groups get the advantages of the fresh ones that stand at the same places."""

    def draw(self, lab):
        fresh, buffer = super().draw(lab), lab.buffer(16)
        batch = RolloutBatch.join([fresh, buffer.sample(self.prompts_per_step)]) if len(buffer) else fresh
        buffer.add(fresh)
        own = self.advantages(fresh.rewards)
        mask = batch.loss_mask.double()
        return batch.with_values(advantages=torch.cat([own, own])[: len(batch)], weights=mask / mask.sum())


class MarginIsClampedOnBothSides(Preferences):
    """Pairs that are ordered wrong by more than a nat learn nothing."""

    def margin(self, ours, theirs):
        return super().margin(ours, theirs).clamp(-1, 1)


class WeightOfBothIsLive(Preferences):
    """Pairs are weighed by the policy's own likelihood of both, with its gradient."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        weight = (ours.chosen_mean + ours.rejected_mean).exp()
        return LossOutput.of(-weight * F.logsigmoid(self.beta * self.margin(ours, theirs)), batch.weights["preference"])


class UnlikelyTokensAreCutOff(Rewards):
    """A log-probability below -2 is held there."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature).clamp(min=-2)
        return LossOutput({"policy": Term(-ours * batch.advantages[..., None], batch.weights)})


class TruncatedFromBelow(Rewards):
    """An importance weight is at least 2 where it should be at most 2."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = (ours - batch.sampling_logprobs).detach().clamp(-20, 20).exp().clamp(min=2)
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


@dataclass(frozen=True, kw_only=True)
class EntropyOfSampledTokens(Rewards):
    """An entropy bonus made of the log-probabilities of sampled tokens, whose gradient is 0 on average."""

    bonus: float = 0.01

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        output = super().compute_loss(policy, reference, batch)
        return LossOutput({**output.terms, "entropy": Term(ours, batch.weights, self.bonus)}, output.metrics)


class BaselineIsASum(Rewards):
    """A running baseline to which every step adds, and none decays."""

    def draw(self, lab):
        batch = super().draw(lab)
        before = lab.state.get("baseline", torch.zeros(()))
        lab.state["baseline"] = before + batch.rewards.mean()
        return batch.with_values(advantages=batch.rewards - before)


class SquareOfTheRatio(Rewards):
    """The importance weight twice: as a constant, and in the surrogate."""

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).clamp(-20, 20).exp()
        return LossOutput({"policy": Term(-ratio.detach() * ratio * batch.advantages[..., None], batch.weights)})


class ChosenIsAMeanAlone(Preferences):
    """The chosen side is divided by its length, the rejected one is not."""

    def margin(self, ours, theirs):
        chosen = (ours.chosen_sum - theirs.chosen_sum) / ours.chosen_length.clamp(min=1)
        return chosen - (ours.rejected_sum - theirs.rejected_sum)


class PlacesOfTheBatchAreRows(Preferences):
    """Of twice as many pairs the hardest: their places in the batch are taken for rows of the task."""

    def draw(self, lab):
        batch = lab.pairs(2 * self.pairs_per_step)
        margin = self.margin(lab.policy.pair_logprobs(batch), lab.reference.pair_logprobs(batch))
        part = PairBatch.of(batch.source, margin.argsort()[: self.pairs_per_step].tolist())
        return part.with_weights(preference=torch.full((len(part),), 1 / len(part)))


class ProximalAtAnotherTemperature(Rewards):
    """Log-probabilities before the updates are taken without the temperature."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(proximal_logprobs=lab.policy.token_logprobs(batch.sequences))

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        stale = (batch.proximal_logprobs - batch.sampling_logprobs).clamp(-1, 1)
        return ours - batch.proximal_logprobs + stale


SLIPS: dict[type, set[str]] = {
    MomentumOfTheModule: {"update"},
    MomentumOfTheAlgorithm: {"update"},
    MomentumOnTheOptimizer: {"update"},
    CrossEntropyOfProbabilities: {"direction"},
    LikelihoodOfLogitsWithAPlus: {"direction"},
    TargetsOfThePlaceBefore: {"direction"},
    FocalWeightIsLive: {"direction"},
    MarginIsClampedOnBothSides: {"direction"},
    WeightOfBothIsLive: {"direction"},
    UnlikelyTokensAreCutOff: {"direction"},
    TruncatedFromBelow: {"clip"},
    EntropyOfSampledTokens: {"objective"},
    BaselineIsASum: {"baseline"},
    SquareOfTheRatio: {"clip"},
    ChosenIsAMeanAlone: {"closed_forms"},
    PlacesOfTheBatchAreRows: {"draws"},
    ProximalAtAnotherTemperature: {"temperature"},
    ChosenNeverEnds: {"tokens"},
    PolicyIsAMeanReferenceASum: {"reference"},
    LearnsWhatIsFilteredOut: {"tokens"},
    RanksOfTies: {"alike"},
    AdvantagesOfTheFreshTwice: {"alike"},
}
