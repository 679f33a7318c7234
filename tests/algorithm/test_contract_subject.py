"""What the laws are tried on."""

import random

import numpy as np
import torch

from rlx.algorithm.contract_subject import completion_gradients, global_generators, row_shown, small
from tests.algorithm.checking import subject
from tests.algorithm.faulty import Preferences, Rewards
from tests.algorithm.sound import FromLogits


def test_an_algorithm_is_checked_with_fewer_rows():
    assert small(Preferences(pairs_per_step=500)).pairs_per_step == 12
    assert small(Rewards(prompts_per_step=3)).prompts_per_step == 3


def test_a_loss_of_logits_goes_past_the_stand_in():
    assert subject(FromLogits()).goes_past
    assert not subject(Preferences()).goes_past
    assert subject(FromLogits()).stand_in().policy.parameters()


def test_gradients_are_found_by_completion():
    checked = subject(Preferences())
    setting = checked.stand_in()
    batch = checked.first_update(setting)
    gradient, _ = checked.gradient(setting, batch)
    rows = completion_gradients(setting, batch, gradient)
    assert [[len(part) for part in row] for row in rows] == batch.sequences.completion_lengths.tolist()
    assert repr(checked.policy.decode(batch.sequences.prompts[1])) in row_shown(checked, batch, 1)


def test_a_used_generator_is_named_and_put_back():
    before = (random.getstate(), torch.get_rng_state())
    with global_generators() as used:
        assert used() == []
        random.random()
        np.random.random()
        torch.rand(1)
        assert used() == ["random", "numpy.random", "torch"]
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
