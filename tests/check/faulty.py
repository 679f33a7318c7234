"""Algorithms with one planted fault each; FAULTS says which laws may name it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlx.algorithm import Algorithm, AlgorithmType, Lab, LossOutput, Need, Term, mean_of
from rlx.data.preferences import PairBatch
from rlx.data.sequences import Sequences
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.weight import token_mean
from rlx.optimizer.step import Clipping
from rlx.rollout.draw import roll_out


@dataclass(frozen=True, kw_only=True)
class Demonstrations(Algorithm[Any]):
    """Sound supervised learning; the base of faulty ones."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    pairs_per_step: int = 8

    def draw(self, lab: Lab) -> Any:
        batch = lab.pairs(self.pairs_per_step).chosen_only()
        return batch.with_weights(nll=token_mean.formula(batch.chosen_mask))

    def compute_loss(self, policy, reference, batch) -> LossOutput:
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs, batch.weights["nll"], logprobs_chosen=logprobs.sum(dim=1))


@dataclass(frozen=True, kw_only=True)
class Preferences(Algorithm[Any]):
    """Sound DPO; the base of faulty ones."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.PREFERENCE_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS, Need.REFERENCE})

    pairs_per_step: int = 8
    beta: float = 0.1

    def draw(self, lab: Lab) -> Any:
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(preference=torch.full((len(batch),), 1 / len(batch)))

    def margin(self, ours, theirs):
        return (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)

    def compute_loss(self, policy, reference, batch) -> LossOutput:
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"], margin=self.beta * margin)


@dataclass(frozen=True, kw_only=True)
class Rewards(Algorithm[Any]):
    """Sound group-relative policy gradients; the base of faulty ones."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.POLICY_GRADIENT
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS})

    prompts_per_step: int = 4
    group_size: int = 4

    def draw(self, lab: Lab) -> Any:
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))

    def advantages(self, rewards):
        return rewards - rewards.mean(dim=1, keepdim=True)

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (ours - batch.sampling_logprobs).clamp(-20, 20)

    def compute_loss(self, policy, reference, batch) -> LossOutput:
        ratio = self.log_ratio(policy, batch).exp()
        metrics = {"ratio_mean": mean_of(ratio, batch.loss_mask)}
        return LossOutput({"policy": Term(-ratio * batch.advantages[..., None], batch.weights)}, metrics)


class MeanPerMicroBatch(Preferences):
    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(-F.logsigmoid(self.beta * margin), torch.full((len(batch),), 1 / len(batch)))


class PaddingInTheMean(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(nll=torch.full((len(batch),), 1 / len(batch)))

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(-policy.token_logprobs(batch.sequences)[:, 0].mean(dim=-1), batch.weights["nll"])


class GradientIntoTheReference(Preferences):
    def compute_loss(self, policy, reference, batch):
        reference.model.requires_grad_(True)
        theirs = reference._policy.pair_logprobs(batch)
        margin = self.margin(policy.pair_logprobs(batch), theirs)
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


class PolicyAsReference(Preferences):
    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), policy.pair_logprobs(batch)
        margin = ours.chosen_sum - theirs.rejected_sum
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class IgnoredHyperparameter(Preferences):
    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class DetachedTerm(Preferences):
    penalty: float = 0.3

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        drift = (policy.pair_logprobs(batch).chosen_sum.detach() - reference.pair_logprobs(batch).chosen_sum) ** 2
        return LossOutput({**output.terms, "drift": Term(drift, batch.weights["preference"], self.penalty)}, output.metrics)


class PenaltyIsDetached(Demonstrations):
    """A penalty that shall hold the policy back carries no gradient, so that the loss rises as the policy learns."""

    def compute_loss(self, policy, reference, batch):
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs + 2 * logprobs.detach(), batch.weights["nll"])


class WrongSign(Preferences):
    def margin(self, ours, theirs):
        return -super().margin(ours, theirs)


class LikelihoodWithoutMinus(Demonstrations):
    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(policy.token_logprobs(batch.sequences)[:, 0], batch.weights["nll"])


class WrongSignOfTheAdvantage(Rewards):
    def advantages(self, rewards):
        return rewards.mean(dim=1, keepdim=True) - rewards


class MaskStartsOneLate(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.chosen_mask.clone()
        mask[:, 0] = False
        return batch.with_weights(nll=token_mean.formula(mask))


class EndIsLeftOut(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.chosen_mask
        return batch.with_weights(nll=token_mean.formula(mask & F.pad(mask, (0, 1))[:, 1:]))


class MaskIsShifted(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.weights.roll(1, dims=-1))


class GlobalTorchGenerator(Preferences):
    def margin(self, ours, theirs):
        margin = super().margin(ours, theirs)
        return margin + 0.1 * torch.rand_like(margin)


class GlobalNumpyGenerator(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        start = int(np.random.randint(0, 4))
        return batch[start : start + 4]


class UnseededGenerator(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        noise = torch.from_numpy(np.random.default_rng().random(len(batch)))[:, None]
        return batch.with_weights(nll=batch.weights["nll"] * noise)


class RejectedIsDetached(Preferences):
    def margin(self, ours, theirs):
        return (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum).detach()


class NumberOutOfTheGraph(Preferences):
    def margin(self, ours, theirs):
        return super().margin(ours, theirs) * (1 + ours.chosen_sum.mean().item() ** 2)

    @property
    def couples_rows(self) -> bool:
        return True


class ExpWithoutClamp(Rewards):
    def log_ratio(self, policy, batch):
        return -(policy.token_logprobs(batch.sequences, temperature=batch.temperature) - batch.sampling_logprobs) * -1 + 0 * (
            (-policy.token_logprobs(batch.sequences)).exp()
        )


class DivisionByLength(Preferences):
    def margin(self, ours, theirs):
        chosen = (ours.chosen_sum - theirs.chosen_sum) / ours.chosen_length
        return chosen - (ours.rejected_sum - theirs.rejected_sum) / ours.rejected_length


class DeviationWithoutEpsilon(Rewards):
    def advantages(self, rewards):
        return super().advantages(rewards) / rewards.std(dim=1, keepdim=True)


class MetricWithGradient(Preferences):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        value = policy.pair_logprobs(batch).chosen_sum.sum()
        return LossOutput(output.terms, {"logprobs_chosen": (value, torch.tensor(float(len(batch))))})


class ForeignMetricName(Preferences):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        return LossOutput(output.terms, {"logps_chosen": mean_of(policy.pair_logprobs(batch).chosen_sum)})


class MeansForSums(Preferences):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        mean = policy.pair_logprobs(batch).chosen_sum.detach().mean()
        return LossOutput(output.terms, {"logprobs_chosen": (mean, torch.tensor(1.0))})


class BatchWithGradient(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        with torch.enable_grad():
            ours = lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return replace(batch, sampling_logprobs=ours)


class BackwardInsideTheLoss(Demonstrations):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        output.loss.backward(retain_graph=True)
        return output


class NoGradient(Demonstrations):
    def compute_loss(self, policy, reference, batch):
        with torch.no_grad():
            logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        return LossOutput.of(-logprobs.requires_grad_(), batch.weights["nll"])


class Counter(Demonstrations):
    def compute_loss(self, policy, reference, batch):
        calls = self.__dict__.get("calls", 0) + 1
        object.__setattr__(self, "calls", calls)
        output = super().compute_loss(policy, reference, batch)
        return LossOutput({"nll": replace(output.terms["loss"], coefficient=1 / calls)}, output.metrics)


class Ascends(Demonstrations):
    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        upward = [None if gradient is None else -gradient for gradient in gradients()["loss"]]
        return optimizer.step(upward, self.clipping)


class ForgetsToStep(Demonstrations):
    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        gradients()
        return {}


class PlaceInTheBatch(Preferences):
    @property
    def couples_rows(self) -> bool:
        return True

    def margin(self, ours, theirs):
        margin = super().margin(ours, theirs)
        return margin * torch.linspace(0.5, 1.5, len(margin))


class NoUpdates(Demonstrations):
    def updates(self, batch, rng) -> Iterator[Any]:
        yield from ()


class KlOfTheWrongSign(Rewards):
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    def compute_loss(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        gap = (theirs - ours).clamp(-20, 20)
        values = -ours * batch.advantages[..., None] - 0.1 * (gap.exp() - gap - 1)
        return LossOutput({"policy": Term(values, batch.weights)}, {})


class PromptIsLearned(Demonstrations):
    def compute_loss(self, policy, reference, batch):
        values = []
        for prompt, (chosen, *_) in zip(batch.sequences.prompts, batch.sequences.completions, strict=True):
            tokens = torch.from_numpy(np.concatenate([prompt, chosen]))[None]
            logprobs = F.log_softmax(policy.model(input_ids=tokens).logits[:, :-1], dim=-1)
            values.append(-logprobs.gather(-1, tokens[:, 1:, None]).sum())
        return LossOutput.of(torch.stack(values), torch.full((len(batch),), 1 / self.pairs_per_step))


class BetaIsMissing(Preferences):
    def compute_loss(self, policy, reference, batch):
        margin = self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(-F.logsigmoid(margin), batch.weights["preference"], margin=self.beta * margin)


@dataclass(frozen=True, kw_only=True)
class ScaleCancels(Rewards):
    scale: float = 3.0

    def advantages(self, rewards):
        scaled = rewards * self.scale
        centred = scaled - scaled.mean(dim=1, keepdim=True)
        return centred / (scaled.std(dim=1, keepdim=True) + 1e-4 * self.scale)


class BothLogprobsAreLive(Rewards):
    def log_ratio(self, policy, batch):
        ours, theirs = (policy.token_logprobs(batch.sequences, temperature=batch.temperature) for _ in range(2))
        return ours - theirs


class PlaceInTheCompletion(Preferences):
    def margin(self, ours, theirs):
        fade = [torch.linspace(1, 0, side.shape[1]).to(side) for side in (ours.chosen, ours.rejected)]
        chosen, rejected = (ours.chosen - theirs.chosen) * fade[0], (ours.rejected - theirs.rejected) * fade[1]
        return chosen.sum(dim=1) - rejected.sum(dim=1)


class DependsOnTheClock(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(nll=batch.weights["nll"] * (1 + time.perf_counter() % 1))


class PaddingInTheRatio(Rewards):
    """e^0 is 1 at every token of padding."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=torch.full(batch.rewards.shape, 1 / batch.rewards.numel()))

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).exp().mean(dim=-1)
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights)}, {})


@dataclass(frozen=True, kw_only=True)
class LargerOfTheTwo(Rewards):
    """The larger of the whole and the clipped objective, and a KL beside it."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    def compute_loss(self, policy, reference, batch):
        settings = {"temperature": batch.temperature}
        gap = reference.token_logprobs(batch.sequences, **settings) - policy.token_logprobs(batch.sequences, **settings)
        ratio, advantages = self.log_ratio(policy, batch).exp(), batch.advantages[..., None]
        values = 0.04 * (gap.clamp(max=20).exp() - gap - 1) - self.surrogate(ratio, advantages)
        return LossOutput({"policy": Term(values, batch.weights)}, {})

    def surrogate(self, ratio, advantages):
        return torch.maximum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


class ClippedAlone(LargerOfTheTwo):
    def surrogate(self, ratio, advantages):
        return ratio.clamp(0.8, 1.2) * advantages


class SampledAtAnotherTemperature(Rewards):
    def log_ratio(self, policy, batch):
        return (policy.token_logprobs(batch.sequences) - batch.sampling_logprobs).clamp(-20, 20)


class MeanOverThePrompts(Rewards):
    def advantages(self, rewards):
        return rewards - rewards.mean(dim=0, keepdim=True)


class DeviationOverThePrompts(Rewards):
    def advantages(self, rewards):
        return super().advantages(rewards) / (rewards.std(dim=0, keepdim=True) + 1e-4)


class MeanIsAdded(Rewards):
    def advantages(self, rewards):
        return rewards + rewards.mean(dim=1, keepdim=True)


class BatchIsChanged(Rewards):
    """By what changes it no more the second time."""

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        batch.rewards.zero_()
        return output


class ReferenceSidesAreSwapped(Preferences):
    """And no figure shows it."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        margin = (ours.chosen_sum - theirs.rejected_sum) - (ours.rejected_sum - theirs.chosen_sum)
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


class ChosenHasNoReference(Preferences):
    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        margin = ours.chosen_sum - (ours.rejected_sum - theirs.rejected_sum)
        return LossOutput.of(-F.logsigmoid(self.beta * margin), batch.weights["preference"])


class DriftIsRewarded(Preferences):
    """A regulariser of the wrong sign."""

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        drift = -((ours.chosen - theirs.chosen) ** 2).sum(dim=1)
        return LossOutput({**output.terms, "drift": Term(drift, batch.weights["preference"], 0.1)}, output.metrics)


class PromptIsMoved(Demonstrations):
    """What a prompt ends with is learned as the beginning of the completion."""

    def draw(self, lab):
        batch, rows = super().draw(lab), []
        for prompt, group in zip(batch.sequences.prompts, batch.sequences.completions, strict=True):
            rows.append((prompt[:1], (np.concatenate([prompt[1:], group[0]]),)))
        batch = replace(batch, sequences=Sequences(*(tuple(column) for column in zip(*rows, strict=True))))
        return batch.with_weights(nll=token_mean.formula(batch.chosen_mask))


class EndIsCutOff(Demonstrations):
    def draw(self, lab):
        batch = super().draw(lab)
        groups = tuple((group[0][:-1],) for group in batch.sequences.completions)
        batch = replace(batch, sequences=Sequences(batch.sequences.prompts, groups))
        return batch.with_weights(nll=token_mean.formula(batch.chosen_mask))


class DigitsAreLost(Preferences):
    def margin(self, ours, theirs):
        return super().margin(ours, theirs).to(torch.bfloat16)


class ForeignWordInAMetric(Preferences):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        return LossOutput(output.terms, {"logps/chosen": mean_of(policy.pair_logprobs(batch).chosen_sum)})


class ReferenceMayBeFarAway(Preferences):
    def margin(self, ours, theirs):
        return super().margin(ours, theirs) + torch.log(1 - torch.sigmoid(ours.rejected_sum - theirs.rejected_sum))


class DividedByTheOthersLength(Preferences):
    def margin(self, ours, theirs):
        chosen, rejected = ours.chosen_sum - theirs.chosen_sum, ours.rejected_sum - theirs.rejected_sum
        return chosen / ours.rejected_length.clamp(min=1) - rejected / ours.chosen_length.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class ClipIsIgnored(Demonstrations):
    """Somebody asks for a clip, and an update of its own knows none."""

    max_grad_norm: float | None = 0.5

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        return optimizer.step(gradients()["loss"], Clipping(max_grad_norm=None))


@dataclass(frozen=True, kw_only=True)
class _Lopsided(PreferenceLoss):
    needs_reference: ClassVar[bool] = False
    reads_rejected: ClassVar[bool] = False

    def values(self, policy, reference):
        return -policy.chosen_mean + 0.1 * policy.rejected_mean


@dataclass(frozen=True, kw_only=True)
class SaysThatItReadsTheChosenAlone(Preferences):
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    loss: PreferenceLoss = field(default_factory=_Lopsided)

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(self.beta * self.loss(policy.pair_logprobs(batch), None), batch.weights["preference"])


class SharpnessStaysThere(Preferences):
    """A sharpness-aware update that never comes back from where it looked."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        found = gradients()["loss"]
        with torch.no_grad():
            for parameter, gradient in zip(optimizer.parameters, found, strict=True):
                if gradient is not None:
                    parameter.add_(0.05 * gradient / (gradient.norm() + 1e-12))
        return optimizer.step(gradients()["loss"], self.clipping)


class AscendsOnRewards(Rewards):
    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        upward = [None if gradient is None else -gradient for gradient in gradients()["loss"]]
        return optimizer.step(upward, self.clipping)


class SameRowsForEver(Preferences):
    def draw(self, lab):
        pairs = lab.policy.pair_tokenizer(lab.task.pairs())
        rows = lab.rng.child("rows").numpy().permutation(len(pairs))[: self.pairs_per_step]
        batch = PairBatch.of(pairs, rows.tolist())
        return batch.with_weights(preference=torch.full((len(batch),), 1 / len(batch)))


class OldOfTheTokenBefore(Rewards):
    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (ours - batch.sampling_logprobs.roll(1, dims=-1)).clamp(-20, 20) * batch.completion_mask


class BetaOfOneSide(Preferences):
    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        chosen, rejected = ours.chosen_sum - theirs.chosen_sum, ours.rejected_sum - theirs.rejected_sum
        return LossOutput.of(-F.logsigmoid(self.beta * chosen - rejected), batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class ReferenceAtAnotherTemperature(Rewards):
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    beta: float = 0.1

    def compute_loss(self, policy, reference, batch):
        log_ratio = self.log_ratio(policy, batch)
        apart = reference.token_logprobs(batch.sequences) - policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        kl = apart.clamp(-20, 20).exp() - apart - 1
        return LossOutput({"policy": Term(self.beta * kl - log_ratio.exp() * batch.advantages[..., None], batch.weights)})


class LengthCountsWhatIsNotZero(Preferences):
    def margin(self, ours, theirs):
        sides = ours.chosen - theirs.chosen, ours.rejected - theirs.rejected
        chosen, rejected = (side.sum(dim=1) / (side != 0).sum(dim=1).clamp(min=1) for side in sides)
        return chosen - rejected


class DividedByLengthTwice(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=batch.weights / batch.completion_mask.sum(dim=-1, keepdim=True).clamp(min=1) ** 2)


class WeighedByTheProbabilityOfAll(Preferences):
    """exp of a sum of log-probabilities where that of their mean was meant."""

    def margin(self, ours, theirs):
        return super().margin(ours, theirs) * ours.chosen_sum.detach().exp()


class KlThatIsZeroOnAverage(ReferenceAtAnotherTemperature):
    def compute_loss(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        ratio = (ours - batch.sampling_logprobs).clamp(-20, 20).exp()
        values = self.beta * (ours - theirs) - ratio * batch.advantages[..., None]
        return LossOutput({"policy": Term(values, batch.weights)})


class DrawnToTheSampler(ReferenceAtAnotherTemperature):
    def compute_loss(self, policy, reference, batch):
        log_ratio = self.log_ratio(policy, batch)
        far = mean_of(reference.token_logprobs(batch.sequences, temperature=batch.temperature), batch.loss_mask)
        values = self.beta * ((-log_ratio).exp() + log_ratio - 1) - log_ratio.exp() * batch.advantages[..., None]
        return LossOutput({"policy": Term(values, batch.weights)}, {"reference_logprobs": far})


class NeighboursBaseline(Rewards):
    def advantages(self, rewards):
        return rewards - rewards.mean(dim=1, keepdim=True).roll(1, dims=0)


class FirstOfEachGroup(Rewards):
    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.loss_mask.clone()
        mask[:, 1:] = False
        return batch.with_values(weights=token_mean.formula(mask))


class NeverAboveTheSampler(Rewards):
    """The ends of a ratio, as a clip of its logarithm: where nothing has moved, nothing is learned from what was good."""

    def compute_loss(self, policy, reference, batch):
        log_ratio, advantages = self.log_ratio(policy, batch), batch.advantages[..., None]
        ratio = torch.where(advantages > 0, log_ratio.clamp(-0.2, -0.1), log_ratio).exp()
        return LossOutput({"policy": Term(-ratio * advantages, batch.weights)})


class BothSidesAreLikely(Preferences):
    """A likelihood beside the preference, of the rejected side too."""

    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        likelihood = Term(-(ours.chosen_sum + ours.rejected_sum), batch.weights["preference"], 0.2)
        return LossOutput({**output.terms, "likelihood": likelihood}, output.metrics)


class StepsByHand(Demonstrations):
    """And forgets the clip."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        for parameter, gradient in zip(optimizer.parameters, gradients()["loss"], strict=True):
            parameter.grad = gradient
        optimizer.torch_optimizer.step()
        optimizer.torch_optimizer.zero_grad()
        return {"learning_rate": optimizer.learning_rate}


class StepsTwice(Demonstrations):
    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        found = gradients()["loss"]
        optimizer.step(found, self.clipping)
        return optimizer.step(found, self.clipping)


class TimesTheRows(Demonstrations):
    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        grown = [None if part is None else part * len(gradients.batch) for part in gradients()["loss"]]
        return optimizer.step(grown, Clipping(max_grad_norm=None))


class ForgetsATerm(Preferences):
    def compute_loss(self, policy, reference, batch):
        output, ours = super().compute_loss(policy, reference, batch), policy.pair_logprobs(batch)
        return LossOutput({**output.terms, "likelihood": Term(-ours.chosen_mean, batch.weights["preference"])}, output.metrics)

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        return optimizer.step(gradients(by=str)["loss"], self.clipping)


_CALLS: list[int] = []


class StateOfTheModule(Preferences):
    def margin(self, ours, theirs):
        _CALLS.append(0)
        return super().margin(ours, theirs) * (1 + len(_CALLS) % 3)


class Dropout(Preferences):
    def margin(self, ours, theirs):
        return F.dropout(super().margin(ours, theirs), 0.1)


@dataclass(frozen=True, kw_only=True)
class ActorCritic(Algorithm[Any]):
    """Sound PPO with a critic and generalised advantages (arXiv:1506.02438); the base of faulty ones."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.VALUES})

    prompts_per_step: int = 6
    gamma: float = 1.0
    trace: float = 0.9
    value_weight: float = 0.5

    def draw(self, lab: Lab) -> Any:
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": 1}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        with torch.no_grad():
            values = self.statistics(lab.policy, batch).values.cpu()
        mask = batch.completion_mask
        rewards = batch.rewards[..., None].to(values) * (mask & ~F.pad(mask, (0, 1))[..., 1:])
        advantages = self.advantages(rewards, values, mask)
        return batch.with_values(advantages=advantages, returns=advantages + values, weights=token_mean.formula(batch.loss_mask))

    def statistics(self, policy, batch):
        return policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=frozenset({"values"}))

    def advantages(self, rewards, values, mask):
        found, after, ahead = torch.zeros_like(values), torch.zeros_like(values[..., 0]), torch.zeros_like(values[..., 0])
        for place in reversed(range(values.shape[-1])):
            error = rewards[..., place] + self.gamma * after - values[..., place]
            ahead = (error + self.gamma * self.trace * ahead) * mask[..., place]
            found[..., place], after = ahead, values[..., place] * mask[..., place]
        return found

    def compute_loss(self, policy, reference, batch) -> LossOutput:
        found = self.statistics(policy, batch)
        ratio = (found.token_logprobs - batch.sampling_logprobs).clamp(-20, 20).exp()
        policy_term = Term(-ratio * self.advantage(found, batch), batch.weights)
        return LossOutput({"policy": policy_term, "value": Term(self.error(found, batch), batch.weights, self.value_weight)})

    def advantage(self, found, batch):
        return batch.advantages

    def error(self, found, batch):
        return (found.values - batch.returns) ** 2


class AdvantageIsLive(ActorCritic):
    def advantage(self, found, batch):
        return batch.returns - found.values


class ValuesOfTheNextToken(ActorCritic):
    def advantages(self, rewards, values, mask):
        return super().advantages(rewards, F.pad(values, (0, 1))[..., 1:], mask)


class AdvantagesOfTheTokenBefore(ActorCritic):
    def advantages(self, rewards, values, mask):
        return super().advantages(rewards, values, mask).roll(1, dims=-1) * mask


class RunsOnIntoTheNextCompletion(ActorCritic):
    def advantages(self, rewards, values, mask):
        flat = super().advantages(rewards[mask][None, None], values[mask][None, None], mask[mask][None, None])
        return torch.zeros_like(values).masked_scatter(mask, flat)


class CriticReadsPrompts(ActorCritic):
    def compute_loss(self, policy, reference, batch):
        output, errors = super().compute_loss(policy, reference, batch), []
        for prompt, group, rewards in zip(batch.sequences.prompts, batch.sequences.completions, batch.rewards, strict=True):
            tokens = torch.from_numpy(np.concatenate([prompt, group[0]]))[None]
            hidden = policy.model(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
            errors.append(((policy.value_head(hidden) - rewards) ** 2).sum())
        value = Term(torch.stack(errors), torch.full((len(batch),), 1 / self.prompts_per_step), self.value_weight)
        return LossOutput({"policy": output.terms["policy"], "value": value})


FAULTS: dict[type, set[str]] = {
    MeanPerMicroBatch: {"split"},
    PaddingInTheMean: {"padding"},
    GradientIntoTheReference: {"belongs"},
    PolicyAsReference: {"belongs"},
    IgnoredHyperparameter: {"hyperparameters"},
    DetachedTerm: {"hyperparameters"},
    PenaltyIsDetached: {"falls"},
    WrongSign: {"direction"},
    LikelihoodWithoutMinus: {"direction"},
    WrongSignOfTheAdvantage: {"direction"},
    MaskStartsOneLate: {"tokens"},
    EndIsLeftOut: {"tokens"},
    MaskIsShifted: {"tokens"},
    GlobalTorchGenerator: {"repeats"},
    GlobalNumpyGenerator: {"repeats"},
    UnseededGenerator: {"repeats"},
    RejectedIsDetached: {"tokens"},
    NumberOutOfTheGraph: {"differences"},
    ExpWithoutClamp: {"finite"},
    DivisionByLength: {"finite"},
    DeviationWithoutEpsilon: {"finite"},
    MetricWithGradient: {"metrics"},
    ForeignMetricName: {"metrics"},
    MeansForSums: {"split"},
    BatchWithGradient: {"belongs"},
    BackwardInsideTheLoss: {"belongs"},
    NoGradient: {"reached"},
    Counter: {"repeats"},
    Ascends: {"falls", "update"},
    ForgetsToStep: {"runs"},
    PlaceInTheBatch: {"order"},
    NoUpdates: {"runs"},
    KlOfTheWrongSign: {"anchor"},
    PromptIsLearned: {"prompt"},
    BetaIsMissing: {"closed_forms", "hyperparameters"},
    ScaleCancels: {"hyperparameters"},
    BothLogprobsAreLive: {"direction"},
    PlaceInTheCompletion: {"padding"},
    DependsOnTheClock: {"repeats"},
    PaddingInTheRatio: {"padding"},
    SampledAtAnotherTemperature: {"temperature"},
    MeanOverThePrompts: {"order"},
    DeviationOverThePrompts: {"order"},
    MeanIsAdded: {"baseline"},
    BatchIsChanged: {"repeats"},
    ReferenceSidesAreSwapped: {"reference"},
    ChosenHasNoReference: {"reference"},
    DriftIsRewarded: {"anchor"},
    PromptIsMoved: {"prompt"},
    EndIsCutOff: {"prompt"},
    DigitsAreLost: {"differences"},
    LargerOfTheTwo: {"clip"},
    ClippedAlone: {"clip"},
    ForeignWordInAMetric: {"metrics"},
    ReferenceMayBeFarAway: {"finite"},
    DividedByTheOthersLength: {"closed_forms"},
    ClipIsIgnored: {"hyperparameters"},
    SaysThatItReadsTheChosenAlone: {"tokens"},
    SharpnessStaysThere: {"update"},
    AscendsOnRewards: {"update"},
    SameRowsForEver: {"draws"},
    OldOfTheTokenBefore: {"alignment"},
    BetaOfOneSide: {"closed_forms"},
    ReferenceAtAnotherTemperature: {"temperature"},
    LengthCountsWhatIsNotZero: {"length"},
    DividedByLengthTwice: {"length"},
    WeighedByTheProbabilityOfAll: {"length"},
    KlThatIsZeroOnAverage: {"anchor"},
    DrawnToTheSampler: {"anchor"},
    NeighboursBaseline: {"alike"},
    FirstOfEachGroup: {"tokens"},
    NeverAboveTheSampler: {"clip"},
    BothSidesAreLikely: {"direction"},
    StepsByHand: {"update"},
    StepsTwice: {"update"},
    TimesTheRows: {"update"},
    ForgetsATerm: {"update"},
    StateOfTheModule: {"repeats"},
    Dropout: {"repeats"},
    AdvantageIsLive: {"belongs"},
    ValuesOfTheNextToken: {"credit"},
    AdvantagesOfTheTokenBefore: {"credit"},
    RunsOnIntoTheNextCompletion: {"credit"},
    CriticReadsPrompts: {"prompt"},
}
