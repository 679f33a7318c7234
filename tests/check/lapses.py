"""Lapses in draws and updates; LAPSES says which laws may name each, SPARED are sound algorithms that look alike."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from rlx.algorithm import LossOutput, Need, Term
from rlx.data.preferences import PairBatch
from rlx.loss import stop_gradient
from rlx.loss.weight import token_mean
from rlx.rollout.draw import greedy_rewards, roll_out
from rlx.rollout.rollouts import RolloutBatch
from tests.check.faulty import Demonstrations, Preferences, Rewards
from tests.check.mistakes import WithReference


@dataclass(frozen=True, kw_only=True)
class InParts(Preferences):
    """Sound: minibatches, each a mean of its own."""

    size: int = 2

    def starts(self, batch):
        return range(0, len(batch), self.size)

    def end(self, start):
        return start + self.size

    def updates(self, batch, rng):
        for start in self.starts(batch):
            part = batch[start : self.end(start)]
            yield part.with_weights(preference=torch.full((len(part),), 1 / len(part)))


class PartsOverlap(InParts):
    """Each minibatch has the first row of the next one too."""

    def end(self, start):
        return start + self.size + 1


class LastPartIsLost(InParts):
    """The last minibatch is never made."""

    def starts(self, batch):
        return range(0, len(batch) - self.size, self.size)


class RemainderIsDropped(InParts):
    """Sound: what is left over, less than a minibatch, is dropped."""

    size: int = 3

    def starts(self, batch):
        return range(0, len(batch) - self.size + 1, self.size)


class AtRandomWithReplacement(InParts):
    """Sound: rows are taken by chance, some twice and some never."""

    def updates(self, batch, rng):
        for _ in range(3):
            part = PairBatch.of(batch.source, batch.rows[rng.numpy().integers(0, len(batch), size=self.size)])
            yield part.with_weights(preference=torch.full((len(part),), 1 / len(part)))


class TheSameCoins(Preferences):
    """A coin weighs some pairs down, and falls alike at every step."""

    def coins(self, lab):
        return lab.rng.child("coin")

    def draw(self, lab):
        batch = super().draw(lab)
        down = torch.from_numpy(self.coins(lab).numpy().random(len(batch))) < 0.5
        return batch.with_weights(preference=torch.where(down, 0.5, 1.0) / len(batch))


class NewCoins(TheSameCoins):
    """Sound: it is thrown anew."""

    def coins(self, lab):
        return lab.rng.child("coin", lab.step)


class SeedOfTheStep(Preferences):
    """Pairs are drawn by a generator of the step, whatever the seed is."""

    def generator(self, lab):
        return np.random.default_rng(lab.step)

    def draw(self, lab):
        pairs = lab.policy.pair_tokenizer(lab.task.pairs())
        batch = PairBatch.of(pairs, self.generator(lab).permutation(len(pairs))[: self.pairs_per_step])
        return batch.with_weights(preference=torch.full((len(batch),), 1 / len(batch)))


class SeedOfTheRun(SeedOfTheStep):
    """Sound: the same, of the run's own stream."""

    def generator(self, lab):
        return lab.rng.child("rows", lab.step).numpy()


class GrowsForEver(Preferences):
    """A warm-up by max, which never ends."""

    def share(self, step):
        return max((step + 1) / 5, 1.0)

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_weights(preference=self.share(lab.step) * batch.weights["preference"])


class WarmsUp(GrowsForEver):
    """Sound: by min."""

    def share(self, step):
        return min((step + 1) / 5, 1.0)


class AddsBeforeItSamples(Rewards):
    """Fresh groups are in the replay buffer before it is asked."""

    first: bool = True

    def draw(self, lab):
        fresh, buffer = super().draw(lab), lab.buffer(32)
        if self.first:
            buffer.add(fresh)
        batch = RolloutBatch.join([fresh, buffer.sample(8)]) if len(buffer) else fresh
        if not self.first:
            buffer.add(fresh)
        return batch.with_values(advantages=self.advantages(batch.rewards), weights=token_mean.formula(batch.loss_mask))

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = (ours - batch.sampling_logprobs).detach().clamp(-20, 20).exp().clamp(max=2)
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


class SamplesBeforeItAdds(AddsBeforeItSamples):
    """Sound: the other way round."""

    first: bool = False


class LearnsFromWhatIsHeldOut(Rewards):
    """Advantages shrink with the score on prompts that are held out."""

    def prompts(self, lab):
        return lab.task.held_out_prompts()

    def draw(self, lab):
        batch = super().draw(lab)
        reached = float(greedy_rewards(lab, self.prompts(lab)[:8]).mean())
        return batch.with_values(advantages=(1.5 - reached) * batch.advantages)


class LearnsFromItsOwn(LearnsFromWhatIsHeldOut):
    """Sound: on prompts that are learned."""

    def prompts(self, lab):
        return lab.task.prompts()


class MeansByPlace(Rewards):
    """Means of prompts are kept by their keys and read by the places of a batch."""

    def read(self, means, keys):
        return means[: len(keys)]

    def draw(self, lab):
        batch = super().draw(lab)
        keys = torch.tensor(batch.prompt_keys)
        means = lab.state.get("means", torch.zeros(len(lab.task.prompts()))).clone()
        means[keys] = 0.9 * means[keys] + 0.1 * batch.rewards.mean(dim=1)
        lab.state["means"] = means
        return batch.with_values(advantages=batch.rewards - self.read(means, keys)[:, None])


class MeansByPrompt(MeansByPlace):
    """Sound: they are read by key."""

    def read(self, means, keys):
        return means[keys]


class ReferenceOfTheFirst(Preferences):
    """What the reference says of the first pairs is kept, and used for all."""

    def draw(self, lab):
        batch = super().draw(lab)
        if "chosen" not in lab.state:
            theirs = lab.reference.pair_logprobs(batch)
            lab.state["chosen"], lab.state["rejected"] = theirs.chosen_sum, theirs.rejected_sum
        return batch.with_weights(chosen=lab.state["chosen"], rejected=lab.state["rejected"])

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        margin = (ours.chosen_sum - batch.weights["chosen"]) - (ours.rejected_sum - batch.weights["rejected"])
        return LossOutput.of(-torch.nn.functional.logsigmoid(self.beta * margin), batch.weights["preference"])


class ClippedFromAbove(Demonstrations):
    """Elements of the gradient are cut above a limit, and not below its negative."""

    def clipped(self, gradient):
        return gradient.clamp(max=1e-4)

    def update_policy(self, gradients, optimizer):
        found = [None if part is None else self.clipped(part) for part in gradients()["loss"]]
        return optimizer.step(found, self.clipping)


class ClippedOnBothSides(ClippedFromAbove):
    """Sound: on both sides."""

    def clipped(self, gradient):
        return gradient.clamp(-1e-4, 1e-4)


class ShrinksTheWeights(Demonstrations):
    """Sound: a decay that no gradient decides."""

    def update_policy(self, gradients, optimizer):
        with torch.no_grad():
            for parameter in optimizer.parameters:
                parameter.mul_(1 - 1e-6)
        return optimizer.step(gradients()["loss"], self.clipping)


class AddedInPlace(WithReference):
    """The penalty is added to the gradient of the other term in place, and once more."""

    def update_policy(self, gradients, optimizer):
        found = gradients(by=str)
        for mine, other in zip(found["policy"], found["kl"], strict=True):
            if mine is not None and other is not None:
                mine.add_(other)
        both = zip(found["policy"], found["kl"], strict=True)
        return optimizer.step([b if a is None else a if b is None else a + b for a, b in both], self.clipping)


@dataclass(frozen=True, kw_only=True)
class Odds(Preferences):
    """Sound: log odds of the chosen completion against those of the rejected one, beside its likelihood."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.PAIRS})
    sign: ClassVar[int] = -1

    beta: float = 0.5

    def compute_loss(self, policy, reference, batch):
        ours = policy.pair_logprobs(batch)
        sides = (ours.chosen_mean, ours.rejected_mean)
        chosen, rejected = (side + self.sign * torch.log1p(-side.clamp(max=-1e-6).exp()) for side in sides)
        values = -ours.chosen_mean - self.beta * torch.nn.functional.logsigmoid(chosen - rejected)
        return LossOutput.of(values, batch.weights["preference"])


class OddsWithAPlus(Odds):
    """p (1 - p) for p / (1 - p)."""

    sign: ClassVar[int] = 1


class MeasuredFromItself(Preferences):
    """The reference is a constant copy of the policy itself."""

    def margin(self, ours, theirs):
        own = super().margin(ours, theirs)
        return own - stop_gradient(own)


class RejectedTokensCount(Demonstrations):
    """A mean over the tokens of chosen completions, divided by those of both."""

    def draw(self, lab):
        batch = lab.pairs(self.pairs_per_step)
        return batch.with_weights(nll=batch.chosen_mask.double() / batch.sequences.completion_mask.sum())

    def compute_loss(self, policy, reference, batch):
        return LossOutput.of(-policy.pair_logprobs(batch).chosen, batch.weights["nll"])


class LeftOutCount(Rewards):
    """Completions that were cut off are left out of the sum of rewards, and counted in its mean."""

    def number(self, kept):
        return kept.shape[1]

    def draw(self, lab):
        sizes = {"prompts_per_step": self.prompts_per_step, "group_size": self.group_size}
        batch = roll_out(lab, **sizes, resample_attempts=0, filter_truncated=True)
        kept = batch.kept.float()
        mean = (batch.rewards * kept).sum(dim=1, keepdim=True) / self.number(kept)
        return batch.with_values(advantages=(batch.rewards - mean) * kept, weights=token_mean.formula(batch.loss_mask))


class KeptCount(LeftOutCount):
    """Sound: the mean is that of what is kept."""

    def number(self, kept):
        return kept.sum(dim=1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class RewardsLater(WithReference):
    """Sound: the first steps hold the policy to its reference, then rewards count too."""

    first: int = 3
    sign: ClassVar[int] = 1

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(value_weights=self.sign * float(lab.step >= self.first) * batch.weights)

    def compute_loss(self, policy, reference, batch):
        terms = super().compute_loss(policy, reference, batch).terms
        return LossOutput({**terms, "policy": replace(terms["policy"], weights=batch.value_weights)})


class UnlearnsLater(RewardsLater):
    """With the wrong sign, of which the first steps show nothing."""

    sign: ClassVar[int] = -1


class HashOfTheText(Preferences):
    """A tenth of the prompts is left out by the hash of their text, which differs from process to process."""

    def number(self, text):
        return hash(text)

    def draw(self, lab):
        batch = super().draw(lab)
        texts = [lab.policy.decode(prompt) for prompt in batch.sequences.prompts]
        kept = torch.tensor([float(self.number(text) % 3 != 0) for text in texts])
        return batch.with_weights(preference=kept * batch.weights["preference"])


class ChecksumOfTheText(HashOfTheText):
    """Sound: by a checksum."""

    def number(self, text):
        return zlib.crc32(text.encode())


LAPSES: dict[type, set[str]] = {
    HashOfTheText: {"draws"},
    OddsWithAPlus: {"direction"},
    MeasuredFromItself: {"falls"},
    RejectedTokensCount: {"length"},
    LeftOutCount: {"baseline"},
    UnlearnsLater: {"direction"},
    PartsOverlap: {"draws"},
    LastPartIsLost: {"draws"},
    TheSameCoins: {"draws"},
    SeedOfTheStep: {"draws"},
    GrowsForEver: {"draws"},
    AddsBeforeItSamples: {"draws"},
    LearnsFromWhatIsHeldOut: {"draws"},
    MeansByPlace: {"draws"},
    ReferenceOfTheFirst: {"draws"},
    ClippedFromAbove: {"update"},
    AddedInPlace: {"update"},
}

SPARED = [
    ChecksumOfTheText,
    Odds,
    KeptCount,
    RewardsLater,
    InParts,
    RemainderIsDropped,
    AtRandomWithReplacement,
    NewCoins,
    SeedOfTheRun,
    WarmsUp,
    SamplesBeforeItAdds,
    LearnsFromItsOwn,
    MeansByPrompt,
    ClippedOnBothSides,
    ShrinksTheWeights,
]
