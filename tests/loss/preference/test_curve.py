import math

import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.preference.margin import discopop, exo


def test_exo_is_zero_where_the_policy_repeats_the_smoothed_label():
    margin = torch.tensor([math.log(0.9 / 0.1) / 0.4], dtype=torch.float64, requires_grad=True)
    loss = exo.formula(margin, beta=0.4, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss.sum(), margin)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.item() == pytest.approx(0, abs=1e-12)


def test_exo_is_a_reverse_kl_of_two_outcomes():
    margin = torch.linspace(-4, 4, 9, dtype=torch.float64)
    policy, label = torch.sigmoid(0.5 * margin), torch.tensor(0.8, dtype=torch.float64)
    expected = policy * (policy / label).log() + (1 - policy) * ((1 - policy) / (1 - label)).log()
    torch.testing.assert_close(exo.formula(margin, beta=0.5, label_smoothing=0.2), expected)


def test_exo_refuses_certainty():
    with pytest.raises(ConfigError, match=r"the reverse KL to a label that is certain is infinite; try 0\.001"):
        exo(beta=0.1, label_smoothing=0)


def test_discopop_is_logistic_far_below_and_exponential_far_above():
    far = torch.tensor([-40.0, 40.0], dtype=torch.float64)
    values = discopop.formula(far, beta=0.1, temperature=0.05)
    torch.testing.assert_close(values[0], torch.nn.functional.softplus(torch.tensor(4.0, dtype=torch.float64)))
    torch.testing.assert_close(values[1], torch.tensor(-4.0, dtype=torch.float64).exp())


def test_discopop_is_finite_where_the_plain_exponential_overflows():
    margin = torch.tensor([-1e4], requires_grad=True)
    value = discopop.formula(margin, beta=0.1, temperature=0.05)
    (gradient,) = torch.autograd.grad(value.sum(), margin)
    assert value.item() == pytest.approx(1000)
    assert math.isfinite(gradient.item())


def test_a_temperature_that_would_overflow_is_refused():
    with pytest.raises(ConfigError, match=r"temperature of discopop is 1.5"):
        discopop(beta=0.1, temperature=1.5)
