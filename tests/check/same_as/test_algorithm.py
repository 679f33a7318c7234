"""Two algorithms on their draws: the same by hand, and the first difference of one that is not."""

from dataclasses import dataclass, replace

import torch

import rlx
from rlx.algorithm import LossOutput, Term
from rlx.check.same_as.algorithm import compare_algorithms
from rlx.loss.weight import sequence_mean
from rlx.optimizer.step import Clipping
from tests.check.checking import subject
from tests.check.faulty import Preferences, Rewards

GRPO = replace(rlx.load("algorithm", "grpo"), prompts_per_step=4, group_size=4)


@dataclass(frozen=True, kw_only=True)
class ByHand(Rewards):
    def advantages(self, rewards):
        return super().advantages(rewards) / (rewards.std(dim=1, keepdim=True) + 1e-6)

    def draw(self, lab):
        batch = super().draw(lab)
        return batch.with_values(weights=sequence_mean.formula(batch.loss_mask))

    def compute_loss(self, policy, reference, batch):
        ratio, advantages = self.log_ratio(policy, batch).exp(), batch.advantages[..., None]
        return LossOutput({"policy": Term(-torch.minimum(ratio * advantages, self.clipped(ratio) * advantages), batch.weights)})

    def clipped(self, ratio):
        return ratio.clamp(0.8, 1.2)


class WiderAbove(ByHand):
    def clipped(self, ratio):
        return ratio.clamp(0.8, 1.3)


class Unclipped(Preferences):
    def update_policy(self, gradients, optimizer):
        return optimizer.step(gradients()["loss"], Clipping(scale=2.0))


class TwoUpdates(Preferences):
    def updates(self, batch, rng):
        yield batch
        yield batch


class Constant(Preferences):
    def compute_loss(self, policy, reference, batch):
        output = super().compute_loss(policy, reference, batch)
        term = output.terms["loss"]
        return LossOutput({"loss": Term(term.values + 1, term.weights)}, output.metrics)


def test_what_was_written_by_hand_is_the_same():
    assert compare_algorithms(subject(ByHand()), GRPO, name="grpo").same
    ppo = rlx.load("algorithm", "ppo")
    assert compare_algorithms(subject(ppo), ppo, name="ppo").same


def test_the_first_difference_names_the_token_the_sign_and_the_side():
    found = compare_algorithms(subject(WiderAbove()), GRPO, name="grpo")
    assert not found.same
    assert "positive advantage, ratio above the clip's 1.2" in found.where
    assert "a policy 0.4 nats a token away" in found.where
    assert "log-probability" in found.example
    assert "policy, sampler and reference agree" in found.equal


def test_the_gradient_may_be_the_same_and_what_comes_of_it_another():
    assert "update_policy" in compare_algorithms(subject(Unclipped()), Preferences(), name="dpo").where
    assert "a draw makes 2 updates, one of dpo 1" in compare_algorithms(subject(TwoUpdates()), Preferences(), name="dpo").first
    assert "a constant in the loss" in compare_algorithms(subject(Constant()), Preferences(), name="dpo").where


def test_other_rows_are_said():
    found = compare_algorithms(subject(Preferences(pairs_per_step=4)), Preferences(), name="dpo")
    assert found.first == "a draw is 4 rows of 2 completions, one of dpo 8 rows of 2"
