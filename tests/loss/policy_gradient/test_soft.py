import pytest
import torch

from rlx.loss.policy_gradient.token import dro, sapo


def test_the_gate_of_sapo_has_the_slope_of_the_ratio_at_one_and_fades_on_both_sides():
    log_ratio = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    values = sapo.formula(log_ratio.exp(), torch.ones(3, dtype=torch.float64), temperature_positive=1.5)
    slope = torch.autograd.grad(values.sum(), log_ratio)[0]
    assert slope[1].item() == pytest.approx(-1)
    assert -0.1 < slope[0].item() < 0
    assert -1e-3 < slope[2].item() < 0


def test_dro_rests_where_the_log_ratio_is_the_advantage_over_tau():
    token_logprobs = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    sampling = token_logprobs.detach() - 0.6 / 0.2
    value = dro.formula(token_logprobs, token_logprobs - sampling, torch.tensor([0.6], dtype=torch.float64), tau=0.2)
    assert torch.autograd.grad(value.sum(), token_logprobs)[0].item() == pytest.approx(0, abs=1e-12)
