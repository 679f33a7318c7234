"""The law of closed forms: each planted fault is named with a number or a place and a mend."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import rlx
from rlx.algorithm import LossOutput
from rlx.algorithm.dpo import Dpo
from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = ("closed_forms",)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


def test_a_loss_that_is_held_and_not_computed_promises_nothing():
    @dataclass(frozen=True, kw_only=True)
    class Own(Dpo):
        def compute_loss(self, policy, reference, batch):
            ours, theirs = policy.pair_logprobs(batch), reference.pair_logprobs(batch)
            margin = (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)
            return LossOutput.of(-F.logsigmoid(0.02 * margin), torch.full((len(batch),), 1 / len(batch)))

    assert failed(Own(loss=rlx.load("loss", "dpo"), pairs_per_step=8), "closed_forms") == {}
