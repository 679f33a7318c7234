import torch

from rlx.loss import stop_gradient
from rlx.loss.ratio import FrozenStopGradients


def weighed(x: torch.Tensor) -> torch.Tensor:
    return stop_gradient(2 * x) * x + stop_gradient(x**2)


def test_no_gradient_flows_through_it():
    x = torch.tensor(3.0, requires_grad=True)
    assert torch.autograd.grad(weighed(x), x)[0].item() == 6


def test_frozen_constants_keep_their_recorded_values_in_order():
    frozen = FrozenStopGradients()
    with frozen.record():
        assert weighed(torch.tensor(3.0)).item() == 27
    with frozen.replay():
        assert weighed(torch.tensor(4.0)).item() == 6 * 4 + 9
    with frozen.replay():
        assert weighed(torch.tensor(5.0)).item() == 6 * 5 + 9
    assert weighed(torch.tensor(4.0)).item() == 48


def test_a_slope_with_frozen_constants_is_the_declared_gradient():
    frozen, step = FrozenStopGradients(), 1e-3
    x = torch.tensor(3.0, dtype=torch.float64)
    with frozen.record():
        weighed(x)
    ends = []
    for sign in (step, -step):
        with frozen.replay():
            ends.append(weighed(x + sign))
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), torch.tensor(6.0, dtype=torch.float64))
