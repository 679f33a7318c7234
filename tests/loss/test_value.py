import pytest
import torch
import torch.nn.functional as F

from rlx.errors import ConfigError, ShapeError
from rlx.loss.value import clipped_squared_error, squared_error, value_loss

MASK = torch.tensor([[True, True, False], [True, False, False]])
VALUES = torch.tensor([[0.5, 2.0, 9.0], [1.0, 9.0, 9.0]])
RETURNS = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])


def test_half_the_squared_error_over_tokens():
    loss = squared_error()
    values = loss(VALUES, RETURNS, MASK)
    assert values.tolist() == [[0.125, 0.5, 0], [0, 0, 0]]
    assert (loss.weights(MASK) * values).sum().item() == pytest.approx(0.625 / 3)


def test_a_value_gets_no_credit_beyond_the_clip_and_full_blame():
    sampled, returns = torch.zeros(3), torch.tensor([1.0, 1.0, -1.0])
    values = torch.tensor([0.1, 0.5, 0.5], requires_grad=True)
    loss = clipped_squared_error.formula(values, returns, sampled, clip=0.2)
    assert loss.tolist() == pytest.approx([0.9**2 / 2, 0.8**2 / 2, 1.5**2 / 2])
    assert torch.autograd.grad(loss.sum(), values)[0].tolist() == pytest.approx([-0.9, 0, 1.5])


def test_padding_and_constants_get_no_gradient():
    values, returns = VALUES.clone().requires_grad_(), RETURNS.clone().requires_grad_()
    total = clipped_squared_error(clip=0.2)(values.masked_fill(~MASK, torch.nan), returns, MASK, VALUES).sum()
    assert torch.autograd.grad(total, [values, returns], allow_unused=True)[1] is None


def test_a_formula_gets_one_type():
    """torch's own losses raise in their gradient where values and returns have two."""

    @value_loss
    def huber(values, returns, sampling_values):
        assert sampling_values.dtype == returns.dtype == values.dtype
        return F.huber_loss(values, returns, reduction="none")

    for dtype, other in ((torch.float32, torch.float64), (torch.float64, torch.float32)):
        values = VALUES.to(dtype).requires_grad_()
        loss = huber()(values, RETURNS.to(other), MASK, VALUES.to(other))
        slope = torch.autograd.grad(loss.sum(), values)[0]
        assert slope.tolist() == [[-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]  # the error, at most 1


def test_wrong_shapes_and_ranges_are_named():
    with pytest.raises(ShapeError, match=r"returns is \(2, 2\)"):
        squared_error()(VALUES, RETURNS[:, :2], MASK)
    with pytest.raises(ConfigError, match="clip of clipped_squared_error is 0"):
        clipped_squared_error(clip=0)
