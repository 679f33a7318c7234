"""The law of draws, of a replay buffer: what is said of old completions."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from rlx.algorithm import LossOutput, Need, Term
from tests.check.checking import failed
from tests.check.faulty import Rewards
from tests.check.lookalikes import ImitatesOldOnes
from tests.check.oversights import ReplaySaidAnew, ReplayWithoutWeights


def test_the_first_draw_in_which_they_come_again_is_named():
    found = failed(ReplaySaidAnew(), "draws")["draws"]
    assert "comes again at step 1" in found.wrong
    assert "draw" in found.where


def test_groups_without_a_weight_are_counted():
    found = failed(ReplayWithoutWeights(), "draws")["draws"]
    assert found.wrong.startswith("4 groups of earlier draws are learned as if")
    assert failed(ImitatesOldOnes(), "draws") == {}


@dataclass(frozen=True, kw_only=True)
class ReplayWithAPull(ReplayWithoutWeights):
    """Plain REINFORCE on old completions, and a small pull of each token to the reference."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.REWARDS, Need.REFERENCE})

    pull: float = 0.05

    def compute_loss(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        values = self.surrogate(ours, batch) + self.pull * (ours - theirs) ** 2 / 2
        return LossOutput({"policy": Term(values, batch.weights)})

    def surrogate(self, ours, batch):
        return -ours * batch.advantages[..., None]


class WeightsOfTheDrawnPolicy(ReplayWithAPull):
    """The importance weights are made when the batch is drawn, by the policy as it is then."""

    def draw(self, lab):
        batch = super().draw(lab)
        with torch.no_grad():
            now = lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = (now - batch.sampling_logprobs).sum(dim=-1, keepdim=True).clamp(-20, 0.7).exp()
        return batch.with_values(weights=batch.weights * weight)


class Imitates(ReplayWithAPull):
    """Old completions that are right are imitated, with a pull."""

    def advantages(self, rewards):
        return (rewards > 0.5).double()


class Contrasts(ReplayWithAPull):
    """Log-ratios of completions, less their group's mean, are regressed to advantages (arXiv:2406.19188)."""

    def compute_loss(self, policy, reference, batch):
        ours, theirs = (who.token_logprobs(batch.sequences, temperature=batch.temperature) for who in (policy, reference))
        ratio = ((ours - theirs) * batch.loss_mask).sum(dim=-1)
        wrong = (self.pull * (ratio - ratio.mean(dim=1, keepdim=True)) - batch.advantages) ** 2
        return LossOutput({"policy": Term(wrong, torch.full_like(wrong, 1 / 64))})


def test_a_pull_of_tokens_to_the_reference_is_no_weight():
    assert "are learned as if the policy had sampled them now" in failed(ReplayWithAPull(), "draws")["draws"].wrong
    for sound in (WeightsOfTheDrawnPolicy, Imitates, Contrasts):
        assert failed(sound(), "draws") == {}, sound


class ImitatesByTheExponential(ReplayWithAPull):
    """Old completions are imitated, each by the exponential of its advantage: nothing is pushed down."""

    pull: float = 0.0

    def surrogate(self, ours, batch):
        return -ours * (2 * batch.advantages[..., None]).clamp(max=5).exp()


def test_what_a_low_advantage_is_imitated_less_by_is_no_push():
    assert failed(ImitatesByTheExponential(), "draws") == {}


class WeighedByThePolicyAtTheDraw(ReplayWithoutWeights):
    """Old completions are weighed by what the policy says when they come again, in another field."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(proximal_logprobs=lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature))

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        weight = (ours - batch.proximal_logprobs).clamp(-20, 20).exp().detach().clamp(max=2)
        return LossOutput({"policy": Term(-weight * ours * batch.advantages[..., None], batch.weights)})


class WeighedByBoth(WeighedByThePolicyAtTheDraw):
    """And by what was said when they were sampled."""

    def compute_loss(self, policy, reference, batch):
        weight = (batch.proximal_logprobs - batch.sampling_logprobs).clamp(-20, 20).exp().clamp(max=2)
        output = super().compute_loss(policy, reference, batch)
        return LossOutput({"policy": Term(weight * output.terms["policy"].values, batch.weights)})


def test_a_ratio_to_the_policy_at_the_draw_is_no_weight_of_what_is_old():
    assert "as if the policy had sampled them now" in failed(WeighedByThePolicyAtTheDraw(), "draws")["draws"].wrong
    assert failed(WeighedByBoth(), "draws") == {}


@dataclass(frozen=True, kw_only=True)
class SeveralPasses(Rewards):
    """Plain REINFORCE, and several updates of each draw."""

    updates_per_batch: int = 4

    def compute_loss(self, policy, reference, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return LossOutput({"policy": Term(-ours * batch.advantages[..., None], batch.weights)})


@dataclass(frozen=True, kw_only=True)
class SeveralPassesWithRatios(Rewards):
    updates_per_batch: int = 4


class SeveralPassesToTheDraw(SeveralPassesWithRatios):
    """Ratios are to what the policy said at the draw."""

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(proximal_logprobs=lab.policy.token_logprobs(batch.sequences, temperature=batch.temperature))

    def log_ratio(self, policy, batch):
        ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
        return (ours - batch.proximal_logprobs).clamp(-20, 20)


class SeveralPassesOfTheBest(SeveralPasses):
    """Imitates the better ones, which may be old."""

    def advantages(self, rewards):
        return super().advantages(rewards).clamp(min=0)


class PassesInParts(SeveralPasses):
    """Each row is learned from once a draw."""

    def updates(self, batch, rng):
        for rows in (slice(0, 2), slice(2, 4)):
            part = batch[rows]
            yield part.with_values(weights=part.loss_mask / part.loss_mask.sum().clamp(min=1))


def test_a_later_update_of_the_same_rows_weighs_them():
    assert "had sampled them now" in failed(SeveralPasses(), "draws")["draws"].wrong
    for sound in (SeveralPassesWithRatios, SeveralPassesToTheDraw, SeveralPassesOfTheBest, PassesInParts):
        assert failed(sound(), "draws") == {}
