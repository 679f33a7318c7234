"""Sound algorithms of unusual shape: a contract that faults one of them is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from rlx.algorithm import Algorithm, AlgorithmType, Lab, LossOutput, Need, Term, mean_of
from rlx.data.sequences import Sequences
from rlx.loss import stop_gradient
from rlx.loss.preference.base import PreferenceLoss
from rlx.loss.preference.reference_free import nll_sequence_mean
from rlx.loss.weight import token_mean
from rlx.optimizer.step import Clipping
from rlx.policy.reference import MovingReference
from tests.check.faulty import ActorCritic, Demonstrations, LargerOfTheTwo, Preferences, Rewards


class ScoreFunction(Rewards):
    """REINFORCE by the ratio to a constant copy of itself."""

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return ours - ours.detach()


class ConstantUnderNoGrad(Preferences):
    """Weighs a pair by its own likelihood, taken as a constant."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        with torch.no_grad():
            sure = torch.sigmoid(-self.margin(ours, theirs))
        return LossOutput.of(-F.logsigmoid(self.beta * self.margin(ours, theirs)) * sure, batch.weights["preference"])


class DeclaredConstant(Preferences):
    """The same, declared."""

    def margin(self, ours, theirs):
        return super().margin(ours, theirs) * torch.sigmoid(stop_gradient(ours.chosen_mean))


class Clipped(Rewards):
    """A clipped surrogate by hand."""

    def compute_loss(self, policy, reference, batch):
        ratio, advantages = self.log_ratio(policy, batch).exp(), batch.advantages[..., None]
        surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        return LossOutput({"policy": Term(-surrogate, batch.weights)}, {"ratio_mean": mean_of(ratio, batch.loss_mask)})


class ClippedWithKl(LargerOfTheTwo):
    """A clipped surrogate with a KL in the same values."""

    def surrogate(self, ratio, advantages):
        return torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)


class BothSidesAreMasked(LargerOfTheTwo):
    """Tokens outside of a band are dropped, wherever they went."""

    def surrogate(self, ratio, advantages):
        return torch.where((ratio > 0.8) & (ratio < 1.2), ratio * advantages, 0.0)


class BatchBaseline(Preferences):
    """Compares each margin with the mean margin of the batch, and says that it does."""

    @property
    def couples_rows(self) -> bool:
        return True

    def margin(self, ours, theirs):
        margin = super().margin(ours, theirs)
        return margin - 0.3 * stop_gradient(margin).mean()


@dataclass(frozen=True, eq=False)
class Lines:
    """A batch of one's own: demonstrations with an importance each."""

    sequences: Sequences
    importance: torch.Tensor
    metrics: Mapping[str, float]

    @property
    def row_tokens(self) -> list[int]:
        return self.sequences.row_tokens

    def __len__(self) -> int:
        return len(self.sequences)

    def __getitem__(self, rows: slice) -> Lines:
        return Lines(self.sequences[rows], self.importance[rows], self.metrics)


class OwnBatch(Demonstrations):
    """Demonstrations in a batch class of its own."""

    def draw(self, lab: Lab) -> Lines:
        sequences = lab.pairs(self.pairs_per_step).chosen_only().sequences
        importance = torch.from_numpy(lab.rng.child("importance", lab.step).numpy().random(len(sequences)))
        return Lines(sequences, importance / importance.sum(), {"importance_mean": float(importance.mean())})

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(-policy.token_logprobs(batch.sequences)[:, 0].sum(dim=-1), batch.importance)


@dataclass(frozen=True, kw_only=True)
class RunningBaseline(Rewards):
    """The baseline is a running mean of rewards over steps, in the run's state."""

    momentum: float = 0.9

    def draw(self, lab):
        batch = super().draw(lab)
        before = lab.state.get("baseline", batch.rewards.mean())
        lab.state["baseline"] = self.momentum * before + (1 - self.momentum) * batch.rewards.mean()
        return batch.with_values(advantages=batch.rewards - before)


class Listwise(Rewards):
    """Fits the softmax of log-ratios to the softmax of rewards, over each group."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    def compute_loss(self, policy, reference, batch):
        settings = {"temperature": batch.temperature}
        ours, theirs = (who.token_logprobs(batch.sequences, **settings).sum(dim=-1) for who in (policy, reference))
        wanted = torch.softmax(batch.rewards.to(ours.dtype) * 2, dim=1)
        values = -(wanted * F.log_softmax(ours - theirs, dim=1)).sum(dim=1)
        return LossOutput.of(values, torch.full((len(batch),), 1 / self.prompts_per_step))


class Unlikelihood(Preferences):
    """Likelihood of chosen and unlikelihood of rejected tokens, two terms, without a reference."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    def draw(self, lab):
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(
            likelihood=token_mean.formula(batch.chosen_mask), unlikelihood=token_mean.formula(batch.rejected_mask)
        )

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        never = -torch.log1p(-ours.rejected.exp().clamp(max=0.999))
        never = torch.where(batch.rejected_mask, never, 0.0)
        terms = {"likelihood": Term(-ours.chosen, batch.weights["likelihood"])}
        return LossOutput({**terms, "unlikelihood": Term(never, batch.weights["unlikelihood"], self.beta)}, {})


class TermByTerm(Unlikelihood):
    """Clips the gradient of each term on its own."""

    def update_policy(self, gradients, optimizer):
        parts = gradients(by=str)
        total = [sum(part for part in parts_ if part is not None) for parts_ in zip(*parts.values(), strict=True)]
        return optimizer.step([None if isinstance(part, int) else part for part in total], self.clipping)


@dataclass(frozen=True, kw_only=True)
class EntropyBonus(Demonstrations):
    """Supervised learning that stays uncertain."""

    bonus: float = 0.05

    def compute_loss(self, policy, reference, batch):
        found = policy.token_statistics(batch.sequences, requires=frozenset({"entropy"}))
        weights = batch.weights["nll"]
        terms = {"nll": Term(-found.token_logprobs[:, 0], weights), "entropy": Term(-found.entropy[:, 0], weights, self.bonus)}
        return LossOutput(terms, {"entropy": mean_of(found.entropy[:, 0], batch.chosen_mask)})


class ShuffledMinibatches(Rewards):
    """Two updates a draw, each on half of the groups."""

    def updates(self, batch, rng) -> Iterator[Any]:
        order = rng.child("halves").numpy().permutation(len(batch)).tolist()
        for rows in (order[: len(order) // 2 or 1], order[len(order) // 2 :]):
            part = batch.take(rows)
            yield part.with_values(weights=token_mean.formula(part.loss_mask))


@dataclass(frozen=True, kw_only=True)
class Curriculum(Demonstrations):
    """Longer demonstrations count more as the run goes on."""

    steps: int = 100

    def draw(self, lab):
        batch = super().draw(lab)
        late = min(1.0, lab.step / self.steps)
        lengths = batch.sequences.completion_lengths[:, :1].double()
        return batch.with_weights(nll=batch.weights["nll"] * (1 + late * lengths))


class WithSignal(Rewards):
    """Groups without signal are left out; there may be none left."""

    def draw(self, lab):
        batch = super().draw(lab)
        batch = batch.take(torch.nonzero(~batch.without_signal).flatten().tolist())
        return batch.with_values(weights=token_mean.formula(batch.loss_mask))


class FromLogits(Demonstrations):
    """Distils the reference, token by token over the whole vocabulary, on demonstrations."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS, Need.REFERENCE})

    def compute_loss(self, policy, reference, batch):
        ours, theirs = (F.log_softmax(who.logits(batch.sequences), dim=-1) for who in (policy, reference))
        mask = batch.sequences.completion_mask[:, 0]
        return LossOutput.of((theirs.exp() * (theirs - ours)).sum(dim=-1), batch.weights["nll"][mask])


class Regression(Rewards):
    """Log-ratios of pairs of completions regress to the difference of their rewards (REBEL)."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS})

    def compute_loss(self, policy, reference, batch):
        ratio = policy.token_logprobs(batch.sequences, temperature=batch.temperature) - batch.sampling_logprobs
        ratio = ratio.sum(dim=-1)
        gap = (ratio[:, 0] - ratio[:, -1]) - (batch.rewards[:, 0] - batch.rewards[:, -1])
        return LossOutput.of(gap**2, torch.full((len(batch),), 1 / self.prompts_per_step))


class BestOfGroup(Rewards):
    """Rejection sampling: learns the best completion of each group by heart."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.REINFORCEMENT_LEARNING

    def draw(self, lab):
        batch = super().draw(lab)
        best = (batch.rewards == batch.rewards.amax(dim=1, keepdim=True)) & ~batch.without_signal[:, None]
        return batch.with_values(weights=token_mean.formula(batch.loss_mask & best[..., None]))

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(-policy.token_logprobs(batch.sequences, temperature=batch.temperature), batch.weights)


class SequenceLevel(Rewards):
    """One ratio a completion, from the mean of its tokens."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=torch.full(batch.rewards.shape, 1 / batch.rewards.numel()))

    def compute_loss(self, policy, reference, batch):
        lengths = batch.loss_mask.sum(dim=-1).clamp(min=1)
        ratio = (self.log_ratio(policy, batch).sum(dim=-1) / lengths).exp()
        return LossOutput({"policy": Term(-ratio * batch.advantages, batch.weights)}, {"ratio_mean": mean_of(ratio)})


class TwoSources(Rewards):
    """Learns from rewarded completions and from demonstrations in one step, a hybrid by hand."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.HYBRID
    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.PAIRS})

    def draw(self, lab):
        return Both(super().draw(lab), Demonstrations(pairs_per_step=self.prompts_per_step).draw(lab), {})

    def compute_loss(self, policy, reference, batch):
        rewarded = super().compute_loss(policy, reference, batch.rewarded)
        shown = Demonstrations().compute_loss(policy, reference, batch.shown)
        return LossOutput({**rewarded.terms, "shown": shown.terms["loss"]}, rewarded.metrics)


@dataclass(frozen=True, eq=False)
class Both:
    """A row is a group and a demonstration."""

    rewarded: Any
    shown: Any
    metrics: Mapping[str, float]

    @property
    def row_tokens(self) -> list[int]:
        return [a + b for a, b in zip(self.rewarded.row_tokens, self.shown.row_tokens, strict=True)]

    def __len__(self) -> int:
        return len(self.rewarded)

    def __getitem__(self, rows: slice) -> Both:
        return Both(self.rewarded[rows], self.shown[rows], self.metrics)


class WholeEpoch(Demonstrations):
    """Learns from all rows at every step."""

    def draw(self, lab):
        rows = min(self.pairs_per_step, 1) * len(lab.task.pairs())
        batch = lab.pairs(rows).chosen_only()
        return batch.with_weights(nll=self.pairs_per_step * token_mean.formula(batch.chosen_mask))


class Plain(Algorithm[Any]):
    """No dataclass of its own, no hyperparameters."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    def draw(self, lab):
        batch = lab.pairs(4).chosen_only()
        return batch.with_weights(length=torch.from_numpy(1 / np.maximum(1, batch.sequences.completion_lengths.numpy()[:, 0])))

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(-policy.token_logprobs(batch.sequences)[:, 0].sum(dim=1), batch.weights["length"])


class AtItsMinimum(Preferences):
    """Stays near the reference on both completions: where the policy is the reference, the loss is 0 and has no slope."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        return LossOutput.of(self.beta * (ours.chosen - theirs.chosen).pow(2).sum(dim=1), batch.weights["preference"])


class LastTokenAlone(Rewards):
    """Credit goes to the last token of a completion."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.completion_mask
        return batch.with_values(weights=token_mean.formula(mask & ~F.pad(mask, (0, 1))[..., 1:]))


@dataclass(frozen=True, kw_only=True)
class BehindTwoSwitches(Preferences):
    """Options of a term that is off, one of them None."""

    likelihood: float = 0.0
    power: float = 1.0
    floor: float | None = None

    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        if self.likelihood == 0:
            return output
        ours = policy.pair_logprobs(batch)
        values = (-ours.chosen_sum).clamp(min=1e-6) ** self.power
        values = values if self.floor is None else values.clamp(min=self.floor)
        return LossOutput({**output.terms, "likelihood": Term(values, batch.weights["preference"], self.likelihood)}, {})


@dataclass(frozen=True, kw_only=True)
class ReferenceFollows(Preferences):
    """The reference follows the policy, by hyperparameters that only the training loop asks for."""

    every: int = 5
    share: float = 0.6

    @property
    def moving_reference(self) -> MovingReference:
        return MovingReference(every_steps=self.every, policy_share=self.share)


@dataclass(frozen=True, kw_only=True)
class ChosenAlone(Preferences):
    """A likelihood in the place of a preference, which says that it is one."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})

    loss: PreferenceLoss = field(default_factory=nll_sequence_mean)

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(self.beta * self.loss(policy.pair_logprobs(batch), None), batch.weights["preference"])


class DipsAtFirst(Preferences):
    """Not monotone: the slope at the reference is the other way."""

    def compute_loss(self, policy, reference, batch):
        margin = self.beta * self.margin(policy.pair_logprobs(batch), reference.pair_logprobs(batch))
        return LossOutput.of(-F.logsigmoid(margin) + torch.tanh(4 * margin) / 4, batch.weights["preference"])


@dataclass(frozen=True, kw_only=True)
class OwnUpdate(Demonstrations):
    """An update of its own without a clip, which nobody asked for."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        return optimizer.step(gradients()["loss"], Clipping(max_grad_norm=None))


class LengthsByTheRoot(Preferences):
    """Each side is divided by the root of its own length."""

    def margin(self, ours, theirs):
        chosen, rejected = ours.chosen_sum - theirs.chosen_sum, ours.rejected_sum - theirs.rejected_sum
        return chosen / ours.chosen_length.clamp(min=1).sqrt() - rejected / ours.rejected_length.clamp(min=1).sqrt()


class Sharpness(Preferences):
    """A sharpness-aware update that comes back before it moves."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        found, before = gradients()["loss"], [parameter.detach().clone() for parameter in optimizer.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(optimizer.parameters, found, strict=True):
                if gradient is not None:
                    parameter.add_(0.05 * gradient / (gradient.norm() + 1e-12))
        found = gradients()["loss"]
        with torch.no_grad():
            for parameter, old in zip(optimizer.parameters, before, strict=True):
                parameter.copy_(old)
        return optimizer.step(found, self.clipping)


class SignsAlone(Preferences):
    """Moves every weight by as much: beta scales the gradient and changes no sign of it at once."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        return optimizer.step([None if part is None else part.sign() for part in gradients()["loss"]], self.clipping)


@dataclass(frozen=True, kw_only=True)
class SequenceRatio(Rewards):
    """GSPO by hand: the ratio of a completion is the geometric mean of those of its tokens."""

    clip: float = 0.2

    def compute_loss(self, policy, reference, batch):
        mask = batch.completion_mask
        ours = (policy.token_logprobs(batch.sequences, temperature=batch.temperature) * mask).sum(dim=-1)
        theirs = (batch.sampling_logprobs * mask).sum(dim=-1)
        ratio = ((ours - theirs) / mask.sum(dim=-1).clamp(min=1)).clamp(-20, 20).exp()
        pushed = torch.minimum(ratio * batch.advantages, ratio.clamp(1 - self.clip, 1 + self.clip) * batch.advantages)
        return LossOutput.of(-pushed, batch.weights.sum(dim=-1))


@dataclass(frozen=True, kw_only=True)
class QuantileBaseline(Rewards):
    """The baseline is a quantile of the group, which torch refuses outside of 0 to 1."""

    quantile: float = 0.75

    def advantages(self, rewards):
        return rewards - rewards.quantile(self.quantile, dim=1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class WaitsLong(Preferences):
    """Its schedule begins after more steps than are looked at first."""

    wait: int = 1000
    over: int = 2000

    def draw(self, lab):
        batch = super().draw(lab)
        weight = 1 + min(1.0, max(0.0, (lab.step - self.wait) / self.over))
        return batch.with_weights(preference=weight * batch.weights["preference"])


class RejectedAlone(Preferences):
    """NPO (arXiv:2404.05868): away from the rejected completion, which says so by its kind."""

    kind: ClassVar[AlgorithmType] = AlgorithmType.SUPERVISED

    def compute_loss(self, policy, reference, batch):
        ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
        away = -F.logsigmoid(-self.beta * (ours.rejected_sum - theirs.rejected_sum))
        return LossOutput.of(away * 2 / self.beta, batch.weights["preference"])


class FillsABuffer(Preferences):
    """Learns nothing before it has seen 20 draws."""

    def draw(self, lab):
        batch = super().draw(lab)
        lab.state["seen"] = lab.state.get("seen", torch.zeros(())) + 1
        return batch if lab.state["seen"] > 20 else batch.with_weights(preference=torch.zeros(len(batch)))


class EmptyUntilFull(Rewards):
    """Draws no rows before it has seen 20 groups."""

    def draw(self, lab):
        batch = super().draw(lab)
        lab.state["seen"] = lab.state.get("seen", torch.zeros(())) + len(batch)
        return batch if lab.state["seen"] > 20 else batch[slice(0, 0)]


class SumsWithoutAMask(Preferences):
    """Token log-probabilities are 0 outside of their masks."""

    def margin(self, ours, theirs):
        return (ours.chosen - theirs.chosen).sum(dim=1) - (ours.rejected - theirs.rejected).sum(dim=1)


class OwnClipping(Preferences):
    """Never clips: the inherited max_grad_norm is idle."""

    @property
    def clipping(self):
        return Clipping(max_grad_norm=None)


class KinkAtTheReference(Preferences):
    """A penalty on chosen completions that lose likelihood (DPO-positive, arXiv:2402.13228), and one on any change."""

    def compute_loss(self, policy, reference, batch):
        output, ours, theirs = (
            super().compute_loss(policy, reference, batch),
            policy.pair_logprobs(batch),
            reference.pair_logprobs(batch),
        )
        lost = torch.relu(theirs.chosen_sum - ours.chosen_sum) + 0.1 * (ours.chosen - theirs.chosen).abs().sum(dim=1)
        return LossOutput({**output.terms, "lost": Term(lost, batch.weights["preference"], 0.5)}, output.metrics)


class NegativesAlone(Rewards):
    """Learns from completions below the mean (arXiv:2506.01347)."""

    def advantages(self, rewards):
        return super().advantages(rewards).clamp(max=0)


class WhitenedOverTheBatch(Rewards):
    """Mean and deviation of all completions of the step."""

    def advantages(self, rewards):
        return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


class WholeSequenceRatio(SequenceLevel):
    """The importance weight of a completion: the product of those of its tokens."""

    def compute_loss(self, policy, reference, batch):
        ratio = self.log_ratio(policy, batch).sum(dim=-1).clamp(-20, 20).exp()
        return LossOutput.of(-ratio * batch.advantages, batch.weights)


class WhitenedCritic(ActorCritic):
    """Advantages of tokens, whitened over the batch once the returns are made of them."""

    def draw(self, lab):
        batch = super().draw(lab)
        mask = batch.completion_mask
        inside = batch.advantages[mask]
        white = (batch.advantages - inside.mean()) / (inside.std(correction=0) + 1e-4) if len(inside) else batch.advantages
        return batch.with_values(advantages=torch.where(mask, white, 0.0))


@dataclass(frozen=True, kw_only=True)
class PathConsistency(ActorCritic):
    """One squared error moves policy and critic towards each other (arXiv:1702.08892)."""

    trace: float = 0.9
    value_weight: float = 0.5

    def compute_loss(self, policy, reference, batch):
        found = self.statistics(policy, batch)
        log_ratio = (found.token_logprobs - batch.sampling_logprobs).clamp(-20, 20)
        gap = found.values + log_ratio - batch.returns
        return LossOutput({"consistency": Term(gap**2, batch.weights, self.value_weight)})


class BothInOneTerm(ActorCritic):
    """Policy and critic in one term."""

    def compute_loss(self, policy, reference, batch):
        terms = super().compute_loss(policy, reference, batch).terms
        values = terms["policy"].values + self.value_weight * terms["value"].values
        return LossOutput({"both": Term(values, batch.weights)})


class WeighedByLikelihood(Preferences):
    """Each pair counts as much as the policy finds it likely, in a declared constant (arXiv:2406.11827): it rises on the way."""

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        margin = self.beta * self.margin(ours, reference.pair_logprobs(batch))
        likelihood = ours.chosen_sum / ours.chosen_length.clamp(min=1) + ours.rejected_sum / ours.rejected_length.clamp(min=1)
        return LossOutput.of(-F.logsigmoid(margin) * stop_gradient(likelihood.exp()), batch.weights["preference"])


class LooksAhead(Preferences):
    """An extragradient: the gradient is taken after a step that is taken back, and stepped with once."""

    def update_policy(self, gradients, optimizer) -> Mapping[str, float]:
        found, before = gradients()["loss"], [parameter.detach().clone() for parameter in optimizer.parameters]
        with torch.no_grad():
            for parameter, gradient in zip(optimizer.parameters, found, strict=True):
                if gradient is not None:
                    parameter.sub_(optimizer.learning_rate * gradient)
        found = gradients()["loss"]
        with torch.no_grad():
            for parameter, old in zip(optimizer.parameters, before, strict=True):
                parameter.copy_(old)
        return optimizer.step(found, self.clipping)


SOUND = [
    ScoreFunction,
    ConstantUnderNoGrad,
    DeclaredConstant,
    Clipped,
    ClippedWithKl,
    BothSidesAreMasked,
    BatchBaseline,
    OwnBatch,
    RunningBaseline,
    Listwise,
    Unlikelihood,
    TermByTerm,
    EntropyBonus,
    ShuffledMinibatches,
    Curriculum,
    WithSignal,
    FromLogits,
    Regression,
    BestOfGroup,
    SequenceLevel,
    TwoSources,
    WholeEpoch,
    Plain,
    AtItsMinimum,
    LastTokenAlone,
    BehindTwoSwitches,
    ReferenceFollows,
    ChosenAlone,
    DipsAtFirst,
    OwnUpdate,
    LengthsByTheRoot,
    Sharpness,
    SignsAlone,
    SequenceRatio,
    QuantileBaseline,
    WaitsLong,
    RejectedAlone,
    ActorCritic,
    FillsABuffer,
    EmptyUntilFull,
    SumsWithoutAMask,
    OwnClipping,
    KinkAtTheReference,
    NegativesAlone,
    WhitenedOverTheBatch,
    WholeSequenceRatio,
    WhitenedCritic,
    PathConsistency,
    BothInOneTerm,
    LooksAhead,
    WeighedByLikelihood,
]
