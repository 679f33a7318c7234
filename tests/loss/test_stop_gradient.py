import torch

from rlx.loss import stop_gradient


def test_no_gradient_flows_through_it():
    x = torch.tensor(3.0, requires_grad=True)
    total = stop_gradient(2 * x) * x + stop_gradient(x**2)
    assert total.item() == 27
    assert torch.autograd.grad(total, x)[0].item() == 6
