"""The value head: zero at first, one number a position."""

import torch

from rlx.policy.forward import ValueHead


def test_it_is_zero_at_first_whatever_it_reads():
    values = ValueHead(8)(torch.randn(5, 8))
    assert values.shape == (5,)
    assert torch.equal(values, torch.zeros(5))


def test_it_is_linear_in_the_hidden_state_and_gives_a_gradient_to_its_weights_and_to_it():
    head = ValueHead(4).double()
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 2.0, 0.0, -1.0]]))
        head.linear.bias.fill_(0.5)
    hidden = torch.tensor([[1.0, 1.0, 9.0, 1.0], [0.0, 0.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    values = head(hidden)
    assert values.tolist() == [2.5, -1.5]
    values.sum().backward()
    assert torch.equal(hidden.grad, head.linear.weight.detach().expand(2, 4))
    assert head.linear.weight.grad.tolist() == [[1.0, 1.0, 9.0, 3.0]]


def test_values_are_float32_even_of_a_model_in_half_precision():
    assert ValueHead(4).bfloat16()(torch.randn(2, 4).bfloat16()).dtype == torch.float32
