import math

import torch

from rlx.loss.base import LIMIT, clamped_exp


def test_it_is_the_exponential_within_twenty_and_flat_beyond():
    x = torch.tensor([-1e4, -3.0, 0.0, 3.0, 1e4], requires_grad=True)
    value = clamped_exp(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(value, torch.tensor([math.exp(-LIMIT), math.exp(-3), 1.0, math.exp(3), math.exp(LIMIT)]))
    assert slope[[0, 4]].tolist() == [0, 0]
    torch.testing.assert_close(slope[1:4], value[1:4].detach())
