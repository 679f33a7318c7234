"""Laws of numbers: which global generators were used, and what is finite."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from rlx.check.checker import LAWS, check_algorithm
from rlx.check.law.number import global_generators
from rlx.loss import completion_advantage, policy_gradient_loss, preference_loss
from tests.check.checking import shipped, subject, with_loss


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


@policy_gradient_loss
def refuses_nothing(ratio, advantages, completion_mask):
    if not bool(completion_mask.any()):
        raise ZeroDivisionError("no tokens at all")
    return -ratio * advantages


@preference_loss
def by_length(chosen, rejected, chosen_length, rejected_length, *, beta=0.1):
    return -logsigmoid(beta * (chosen / chosen_length - rejected / rejected_length))


@completion_advantage
def shares_of_the_longest(rewards, lengths):
    return rewards - 0.1 * lengths / lengths.amax(dim=1, keepdim=True)


@pytest.mark.parametrize(
    "algorithm", [with_loss(by_length()), replace(shipped("custom_grpo"), advantage=shares_of_the_longest())]
)
def test_a_division_by_lengths_which_data_and_samplers_keep_above_0_is_no_fault(algorithm):
    (verdict,) = check_algorithm(subject(algorithm), laws={"finite": LAWS["finite"]})
    assert not verdict.failed


def test_an_error_for_completions_that_are_all_empty_is_no_fault_and_is_said():
    (verdict,) = check_algorithm(subject(with_loss(refuses_nothing())), laws={"finite": LAWS["finite"]})
    assert not verdict.failed
    assert "not tried: every completion empty, for which it raises (ZeroDivisionError: no tokens at all)" in str(verdict.finding)
