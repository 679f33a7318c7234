"""Laws of learning: what is said of a step besides that it runs."""

from dataclasses import replace

import torch

from rlx.algorithm import LossOutput, Term
from rlx.check.checker import check_algorithm
from tests.check.checking import failed, subject
from tests.check.faulty import Demonstrations, Preferences, Rewards


def test_what_is_no_fault_and_may_be_a_surprise_is_said():
    class LeavesRowsOut(Preferences):
        def updates(self, batch, rng):
            yield batch[slice(0, 5)]

    class PaysAllTheSame(Rewards):
        def draw(self, lab):
            batch = super().draw(lab)
            return replace(batch, rewards=torch.ones_like(batch.rewards))

    numbers = [next(iter(check_algorithm(subject(kind())))).finding.number for kind in (LeavesRowsOut, PaysAllTheSame)]
    assert numbers[0].endswith("updates leave out 3 of 8 rows")
    assert numbers[1].endswith("rewards are 1: nothing is learned from them")


def test_an_update_without_figures_is_named():
    class Forgets(Demonstrations):
        def update_policy(self, gradients, optimizer):
            optimizer.step(gradients()["loss"], self.clipping)

    assert failed(Forgets(), "runs")["runs"].wrong.startswith("update_policy of Forgets gives None")


def test_unlikely_tokens_that_are_left_out_on_purpose_are_no_fault():
    class WithoutUnlikelyTokens(Rewards):
        def compute_loss(self, policy, reference, batch):
            ours = policy.token_logprobs(batch.sequences, temperature=batch.temperature)
            values = torch.where(ours > -2.5, -ours * batch.advantages[..., None], 0.0)
            return LossOutput({"policy": Term(values, batch.weights)})

    assert failed(WithoutUnlikelyTokens(), "direction") == {}
