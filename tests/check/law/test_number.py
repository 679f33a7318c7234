"""Laws of numbers: which global generators were used, and what is finite."""

import random

import numpy as np
import torch

from rlx.check.law.number import global_generators


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
