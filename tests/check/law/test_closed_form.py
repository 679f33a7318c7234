"""The law of closed forms: an algorithm promises only what it computes."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm import LossOutput
from rlx.algorithm.dpo import Dpo
from tests.check.checking import failed


def test_a_loss_that_is_held_and_not_computed_promises_nothing():
    @dataclass(frozen=True, kw_only=True)
    class Own(Dpo):
        def compute_loss(self, policy, reference, batch):
            ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
            margin = (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)
            return LossOutput.of(-F.logsigmoid(0.02 * margin), torch.full((len(batch),), 1 / len(batch)))

    assert failed(Own(loss=rlx.load("loss", "dpo"), pairs_per_step=8), "closed_forms") == {}
