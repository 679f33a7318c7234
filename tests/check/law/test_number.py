"""Laws of numbers: which global generators were used, and what is finite."""

import random

import numpy as np
import torch
from torch.nn.functional import logsigmoid

from rlx.check.checker import LAWS, check_algorithm
from rlx.check.law.number import global_generators
from rlx.loss import preference_loss
from tests.check.checking import subject, with_loss


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


@preference_loss
def refuses_nothing(margin, chosen_length, *, beta=0.1):
    if not bool(chosen_length.any()):
        raise ZeroDivisionError("no tokens at all")
    return -logsigmoid(beta * margin)


def test_an_error_for_completions_that_are_all_empty_is_no_fault_and_is_said():
    (verdict,) = check_algorithm(subject(with_loss(refuses_nothing())), laws={"finite": LAWS["finite"]})
    assert not verdict.failed
    assert "not tried: every completion empty, for which it raises (ZeroDivisionError: no tokens at all)" in str(verdict.finding)
