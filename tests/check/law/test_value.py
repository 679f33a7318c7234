"""Laws of the contract about values: each planted fault is named with a number or a place and a mend."""

import random

import numpy as np
import pytest
import torch

from rlx.check.law.slope import global_generators
from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = (
    "finite",
    "repeats",
    "metrics",
)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


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
