import math

import pytest
import torch

from rlx.algorithm.regularizer import entropy, length, squared_log_ratio
from rlx.errors import RlxError
from rlx.loss.preference.pairs import PairLogprobs


def pair(chosen, rejected, **more):
    def padded(values):
        return torch.tensor([values + [0.0] * (3 - len(values))])

    def mask(values):
        return torch.tensor([[True] * len(values) + [False] * (3 - len(values))])

    return PairLogprobs(padded(chosen), padded(rejected), mask(chosen), mask(rejected), **more)


def test_squared_log_ratio_is_half_the_mean_square_over_the_tokens_of_the_pair():
    value = squared_log_ratio()(pair([-1.0, -2.0], [-3.0]), pair([-1.5, -2.0], [-1.0]))
    # squares .25, 0, 4 over three tokens
    assert value.tolist() == pytest.approx([0.5 * 4.25 / 3])


def test_entropy_is_minus_the_mean_over_tokens():
    entropies = {"chosen_entropy": torch.tensor([[1.0, 2.0, 0.0]]), "rejected_entropy": torch.tensor([[3.0, 0.0, 0.0]])}
    policy = pair([-1.0, -2.0], [-3.0], **entropies)
    assert entropy()(policy, policy).tolist() == pytest.approx([-2.0])
    with pytest.raises(RlxError, match="entropy"):
        entropy()(pair([-1.0], [-1.0]), policy)


def test_length_is_what_the_policy_would_choose_between_the_two():
    equal = pair([-1.0, -1.0], [-2.0])
    assert length()(equal, equal).tolist() == pytest.approx([1.5])
    certain = pair([-0.1, -0.1], [-math.log(1e9)])
    assert length()(certain, certain).tolist() == pytest.approx([2.0], abs=1e-6)


def test_length_pushes_down_the_longer_one():
    policy = pair([-1.0, -1.0], [-2.0])
    policy.chosen.requires_grad_()
    length()(policy, policy).sum().backward()
    assert (policy.chosen.grad[0, :2] > 0).all()
