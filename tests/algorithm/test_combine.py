import math

import pytest
import torch

from rlx.algorithm.combine import NormalizedSum, PcGrad, Sum, added, cosine, dot


def gradient(*values):
    return [torch.tensor([value], dtype=torch.float64) for value in values]


def flat(parts):
    return [0.0 if part is None else part.item() for part in parts]


def test_sum_adds_and_leaves_a_single_gradient_alone():
    first, second = gradient(1.0, 2.0), [None, torch.tensor([0.5])]
    assert flat(Sum()({"a": first, "b": second})) == [1.0, 2.5]
    assert Sum()({"a": first})[0] is first[0]


def test_pcgrad_takes_the_conflict_out_of_both():
    # a = (1, 0), b = (-1, 1): a.b = -1; a' = a + b/2 = (.5, .5), b' = b + a = (0, 1); together (.5, 1.5)
    assert flat(PcGrad()({"a": gradient(1.0, 0.0), "b": gradient(-1.0, 1.0)})) == pytest.approx([0.5, 1.5])


def test_pcgrad_is_the_sum_where_nothing_conflicts():
    terms = {"a": gradient(1.0, 0.0), "b": gradient(1.0, 1.0)}
    assert flat(PcGrad()(terms)) == flat(Sum()(terms))


def test_normalised_gradients_pull_equally_hard():
    # norms 3 and 1, mean 2: 2 (1, 0) + 2 (0, 1)
    assert flat(NormalizedSum()({"a": gradient(3.0, 0.0), "b": gradient(0.0, 1.0)})) == pytest.approx([2.0, 2.0])
    assert flat(NormalizedSum()({"a": gradient(3.0, 0.0), "b": gradient(0.0, 0.0)})) == pytest.approx([3.0, 0.0])


def test_angles():
    assert cosine(gradient(1.0, 0.0), gradient(1.0, 1.0)) == pytest.approx(math.sqrt(0.5))
    assert cosine(gradient(1.0, 0.0), [None, torch.tensor([1.0])]) == 0.0
    assert cosine(gradient(0.0), gradient(1.0)) == 0.0
    assert dot([None], [None]).item() == 0.0


def test_nothing_plus_nothing_stays_nothing():
    assert added([[None], [None]]) == [None]
