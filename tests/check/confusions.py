"""Numbers of one thing used for another; CONFUSIONS says which laws may name each, TWINS are sound algorithms that look alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from rlx.algorithm import LossOutput, Need, Term, mean_of
from rlx.data.preferences import PairBatch
from rlx.data.tokenized import TokenizedPairs
from rlx.loss.weight import token_mean
from rlx.rollout.draw import roll_out
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.mistakes import WithReference


@dataclass(frozen=True, kw_only=True)
class LabelledSides(Preferences):
    """Sound: each side of a pair is held to the reference by itself, with a weight of its own."""

    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    @property
    def label_weights(self):
        return self.desirable_weight, self.undesirable_weight

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        wanted, unwanted = self.label_weights
        chosen = wanted * torch.sigmoid(self.beta * (theirs.chosen_sum - ours.chosen_sum))
        rejected = unwanted * torch.sigmoid(self.beta * (ours.rejected_sum - theirs.rejected_sum))
        return LossOutput.of((chosen + rejected) / 2, batch.weights["preference"])


class LabelWeightsAreExchanged(LabelledSides):
    """The weight of desirable completions is that of undesirable ones."""

    @property
    def label_weights(self):
        return self.undesirable_weight, self.desirable_weight


class SideWeightsOfTheDraw(Preferences):
    """Sound: draw weighs each side by the length of its own completion."""

    def draw(self, lab):
        batch = lab.pairs(self.pairs_per_step)
        sides = {"chosen": batch.chosen_mask, "rejected": batch.rejected_mask}
        return batch.with_weights(**{name: 1 / mask.sum(dim=1).clamp(min=1) / len(batch) for name, mask in sides.items()})

    def weights_of(self, batch):
        return batch.weights["chosen"], batch.weights["rejected"]

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        wanted, unwanted = self.weights_of(batch)
        chosen = Term(torch.sigmoid(self.beta * (theirs.chosen_sum - ours.chosen_sum)), wanted)
        rejected = Term(torch.sigmoid(self.beta * (ours.rejected_sum - theirs.rejected_sum)), unwanted)
        return LossOutput({"chosen": chosen, "rejected": rejected})


class SideWeightsAreExchanged(SideWeightsOfTheDraw):
    """What draw has made of the lengths of chosen completions weighs rejected ones."""

    def weights_of(self, batch):
        return batch.weights["rejected"], batch.weights["chosen"]


class ByReferenceMargin(Preferences):
    """Sound: pairs weigh by the softmax of the margin that the reference has."""

    def draw(self, lab):
        batch = super().draw(lab)
        theirs = lab.reference.pair_logprobs(batch)
        weights = torch.softmax(0.1 * (theirs.rejected_sum - theirs.chosen_sum), dim=0)
        return batch.with_weights(preference=self.order(weights))

    def order(self, weights):
        return weights


class WeightsOfTheNextPair(ByReferenceMargin):
    """They are rolled by one."""

    def order(self, weights):
        return weights.roll(1)


class WeightsBackToFront(ByReferenceMargin):
    """They stand in the opposite order."""

    def order(self, weights):
        return weights.flip(0)


class RanksAsWeights(ByReferenceMargin):
    """Sound: pairs weigh by the rank of their margin, so that one that moves changes places with others."""

    def order(self, weights):
        ranks = weights.argsort().argsort().to(weights.dtype) + 1
        return ranks / ranks.sum()


@dataclass(frozen=True, kw_only=True)
class PairsOfGroups(Preferences):
    """Sound: the best completion of a group against its worst, of groups with signal."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    group_size: int = 4
    least: ClassVar[float] = 1e-6

    def score(self, batch):
        return batch.rewards.double()

    def draw(self, lab):
        sizes = {"prompts_per_step": self.pairs_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=False)
        score = self.score(batch)
        order = score.argsort(dim=1, descending=True, stable=True)
        places = order[:, [0, -1]]
        gap = score.gather(1, places[:, :1]) - score.gather(1, places[:, 1:])
        rows = torch.nonzero(gap[:, 0] >= self.least).flatten().tolist()
        sequences = batch.sequences.take(rows).pick(places[rows].tolist())
        source = TokenizedPairs(sequences, np.array([batch.prompt_keys[row] for row in rows], dtype=np.int64))
        pairs = PairBatch.of(source, np.arange(len(rows)))
        return pairs.with_weights(preference=torch.full((len(pairs),), 1 / max(1, len(pairs))))


class TiesByPosition(PairsOfGroups):
    """Groups without signal become pairs as well: the first completion against the last."""

    least: ClassVar[float] = 0.0


class ShorterOfEquals(PairsOfGroups):
    """Sound: of equally rewarded completions the shorter one is preferred."""

    def score(self, batch):
        return batch.rewards.double() - 1e-3 * batch.sequences.completion_lengths


class CopiesOfTheFirst(Rewards):
    """Groups hold copies of their first completion, beside the rewards of all."""

    def copied(self, batch):
        places = [[0] * self.group_size] * len(batch)
        sequences = batch.sequences.pick(places)
        said = batch.sampling_logprobs[:, :1, : sequences.width].expand(-1, self.group_size, -1)
        return replace(batch, sequences=sequences, sampling_logprobs=said)

    def draw(self, lab):
        batch = super().draw(lab)
        batch = self.copied(batch)
        return batch.with_values(weights=token_mean.formula(batch.loss_mask))


class CopiesOfThePraised(CopiesOfTheFirst):
    """The same with advantages that are never negative."""

    def advantages(self, rewards):
        return (rewards - rewards.mean(dim=1, keepdim=True)).clamp(min=0)


class CopiesBesideAMean(CopiesOfTheFirst):
    """The same, less the mean of all rewards."""

    def advantages(self, rewards):
        return rewards - 0.1


class RewardsOfOthers(Rewards):
    """Completions are put in the order of their lengths, and their rewards stay where they are."""

    def draw(self, lab):
        batch = super().draw(lab)
        places = batch.sequences.completion_lengths.argsort(dim=1)
        sequences = batch.sequences.pick(places.tolist())
        said = batch.sampling_logprobs.gather(1, places[..., None].expand_as(batch.sampling_logprobs))
        batch = replace(batch, sequences=sequences, sampling_logprobs=said)
        return batch.with_values(weights=token_mean.formula(batch.loss_mask))


class RewardsGoAlong(RewardsOfOthers):
    """Sound: the same, and rewards and advantages are put into that order too."""

    def draw(self, lab):
        before, batch = Rewards.draw(self, lab), super().draw(lab)
        places = before.sequences.completion_lengths.argsort(dim=1)
        rewards, finished = before.rewards.gather(1, places), before.finished.gather(1, places)
        return replace(batch, rewards=rewards, finished=finished, advantages=self.advantages(rewards))


class GradientsTwice(Demonstrations):
    """What the loss teaches is added to itself."""

    def update_policy(self, gradients, optimizer):
        once, again = gradients()["loss"], gradients()["loss"]
        return optimizer.step([a if b is None else a + b for a, b in zip(once, again, strict=True)], self.clipping)


class TermsBesideTheWhole(WithReference):
    """The gradients of the terms are added to that of the loss, which has them already."""

    def update_policy(self, gradients, optimizer):
        whole = gradients()["loss"]
        for parts in gradients(by=str).values():
            whole = [b if a is None else a if b is None else a + b for a, b in zip(whole, parts, strict=True)]
        return optimizer.step(whole, self.clipping)


class PenaltyBesideTheWhole(WithReference):
    """The penalty's gradient is added to that of the loss, which has it already."""

    def update_policy(self, gradients, optimizer):
        whole, parts = gradients()["loss"], gradients(by=str)["kl"]
        whole = [b if a is None else a if b is None else a + b for a, b in zip(whole, parts, strict=True)]
        return optimizer.step(whole, self.clipping)


class NormBesideTheTerms(WithReference):
    """Sound: the whole gradient is taken for a figure, and its terms for the step."""

    def update_policy(self, gradients, optimizer):
        whole, parts = gradients()["loss"], gradients(by=str)
        norm = sum(float(part.norm()) for part in whole if part is not None)
        both = zip(*parts.values(), strict=True)
        step = [sum(each for each in row if each is not None) if any(e is not None for e in row) else None for row in both]
        return {"policy_gradient_norm": norm, **optimizer.step(step, self.clipping)}


class MeanOfTwoTakes(Demonstrations):
    """Sound: half of the gradient, taken twice."""

    def update_policy(self, gradients, optimizer):
        once, again = gradients()["loss"], gradients()["loss"]
        return optimizer.step([a if b is None else (a + b) / 2 for a, b in zip(once, again, strict=True)], self.clipping)


@dataclass(frozen=True, kw_only=True)
class LooksAhead(Demonstrations):
    """Sound: the gradient where the policy is, and where it would be after a step."""

    reach: float = 0.01

    def update_policy(self, gradients, optimizer):
        here = gradients()["loss"]
        with torch.no_grad():
            for parameter, part in zip(optimizer.parameters, here, strict=True):
                parameter.sub_(self.reach * part)
        there = gradients()["loss"]
        with torch.no_grad():
            for parameter, part in zip(optimizer.parameters, here, strict=True):
                parameter.add_(self.reach * part)
        return optimizer.step([a + b for a, b in zip(here, there, strict=True)], self.clipping)


@dataclass(frozen=True, kw_only=True)
class TwiceOnPurpose(WithReference):
    """Sound: a hyperparameter of the update multiplies the gradient, which is taken once more for a figure."""

    scale: float = 2.0

    def update_policy(self, gradients, optimizer):
        whole = gradients()["loss"]
        norm = sum(float(part.norm()) for part in gradients()["loss"] if part is not None)
        scaled = [None if part is None else self.scale * part for part in whole]
        return {"policy_gradient_norm": norm, **optimizer.step(scaled, self.clipping)}


@dataclass(frozen=True, kw_only=True)
class ExactPenalty(Rewards):
    """Sound: an exact KL over the vocabulary."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})
    beta: float = 0.1

    def shown(self, kl, entropy):
        return kl

    def compute_loss(self, policy, reference, batch):
        wanted = frozenset({"kl_to_reference", "entropy"})
        found = policy.token_statistics(batch.sequences, temperature=batch.temperature, requires=wanted, reference=reference)
        output = super().compute_loss(policy, reference, batch)
        kl = Term(found.kl_to_reference, batch.weights, self.beta)
        figure = mean_of(self.shown(found.kl_to_reference, found.entropy), batch.loss_mask)
        return LossOutput({**output.terms, "kl": kl}, {**output.metrics, "kl": figure})


class CrossEntropyAsKl(ExactPenalty):
    """The figure is a cross entropy."""

    def shown(self, kl, entropy):
        return kl + entropy


@dataclass(frozen=True, kw_only=True)
class MeanOfTheMinibatch(Rewards):
    """Minibatches of one or two rows, whose mean each micro-batch takes for itself."""

    minibatches: int = 4

    def updates(self, batch, rng):
        for rows in rng.child("order").numpy().permutation(len(batch)).reshape(self.minibatches, -1).tolist():
            part = batch.take(rows)
            yield part.with_values(weights=token_mean.formula(part.loss_mask))

    def compute_loss(self, policy, reference, batch):
        term = super().compute_loss(policy, reference, batch).terms["policy"]
        return LossOutput.of(term.values, term.weights / len(batch))


@dataclass(frozen=True, kw_only=True)
class WarmUpFromZero(Preferences):
    """Sound: the weight rises from 0 at the first step."""

    warmup: int = 5

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(preference=min(1.0, lab.step / self.warmup) * batch.weights["preference"])


class NormOfTheWeights(Demonstrations):
    """Sound: draw logs the norm of the policy's weights."""

    def draw(self, lab):
        norm = torch.cat([parameter.detach().flatten() for parameter in lab.policy.parameters()]).norm()
        return replace(super().draw(lab), metrics={"weight_norm": float(norm)})


@dataclass(frozen=True, kw_only=True)
class HeldToWhatItWas(Demonstrations):
    """Sound: a demonstration may not become less likely than it was when it was drawn before."""

    hold: float = 0.5

    def draw(self, lab):
        batch = super().draw(lab)
        kept = lab.state.get("kept", torch.full((len(batch.source),), -1e4, dtype=torch.float64)).clone()
        target = kept[batch.rows]
        with torch.no_grad():
            kept[batch.rows] = lab.policy.token_logprobs(batch.sequences)[:, 0].sum(dim=1).double()
        lab.state["kept"] = kept
        return batch.with_weights(target=target, row=torch.full((len(batch),), 1 / len(batch)))

    def compute_loss(self, policy, reference, batch):
        logprobs = policy.token_logprobs(batch.sequences)[:, 0]
        below = torch.relu(batch.weights["target"].to(logprobs) - logprobs.sum(dim=1))
        return LossOutput({"nll": Term(-logprobs, batch.weights["nll"]), "hold": Term(below, batch.weights["row"], self.hold)})


CONFUSIONS: dict[type, set[str]] = {
    LabelWeightsAreExchanged: {"direction"},
    SideWeightsAreExchanged: {"direction"},
    WeightsOfTheNextPair: {"order"},
    WeightsBackToFront: {"order"},
    TiesByPosition: {"direction"},
    CopiesOfTheFirst: {"draws"},
    CopiesOfThePraised: {"draws"},
    CopiesBesideAMean: {"draws"},
    RewardsOfOthers: {"draws"},
    GradientsTwice: {"update"},
    TermsBesideTheWhole: {"update"},
    PenaltyBesideTheWhole: {"update"},
    CrossEntropyAsKl: {"closed_forms"},
    MeanOfTheMinibatch: {"split"},
}

TWINS = [
    WarmUpFromZero,
    NormOfTheWeights,
    HeldToWhatItWas,
    RewardsGoAlong,
    NormBesideTheTerms,
    MeanOfTwoTakes,
    LooksAhead,
    TwiceOnPurpose,
    LabelledSides,
    SideWeightsOfTheDraw,
    ByReferenceMargin,
    RanksAsWeights,
    PairsOfGroups,
    ShorterOfEquals,
    ExactPenalty,
]
