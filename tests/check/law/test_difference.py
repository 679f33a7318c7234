"""The law of differences: constants are held fixed, however they are written."""

import torch

import rlx
from rlx.check.law.difference import HeldConstants
from rlx.loss import stop_gradient
from tests.check.checking import failed


def test_a_statistic_without_a_gradient_is_not_taken_for_another():
    ppo = rlx.load("algorithm", "ppo", prompts_per_step=4, minibatches=1)  # reads entropy for a figure alone, and values
    assert failed(ppo, "differences") == {}


def test_constants_keep_their_values_in_the_order_in_which_they_were_made():
    def constants(x):
        with torch.no_grad():
            third = 3 * x
        return stop_gradient(x), x.detach() + 1, third

    held, one, two = HeldConstants(), torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    with held:
        constants(one)
    with held.replay():
        assert [float(value) for value in constants(two)] == [1.0, 2.0, 3.0]
    assert [float(value) for value in constants(two)] == [2.0, 3.0, 6.0]
