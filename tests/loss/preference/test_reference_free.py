import math

import pytest
import torch

from rlx.loss.preference.reference_free import alpha_po, alpha_po_reward, simper, simpo
from tests.loss.catalogue import golden_pairs, load

MEANS = torch.tensor([-0.2, -1.0, -3.0], dtype=torch.float64)


def test_simpo_subtracts_gamma_from_beta_times_the_margin():
    value = simpo.formula(torch.tensor([0.25], dtype=torch.float64), beta=2.0, gamma=0.5, label_smoothing=0.0)
    assert value.item() == pytest.approx(math.log(2))


def test_alpha_po_is_simpo_at_zero_and_close_to_it_near_zero():
    given = {"beta": 2.0, "gamma": 0.5}
    expected = simpo.formula(MEANS - MEANS.flip(0), label_smoothing=0.0, **given)
    torch.testing.assert_close(alpha_po.formula(MEANS, MEANS.flip(0), alpha=0, **given), expected)
    torch.testing.assert_close(alpha_po.formula(MEANS, MEANS.flip(0), alpha=1e-6, **given), expected, rtol=1e-4, atol=1e-4)


def test_the_reward_of_alpha_po_is_a_power_of_the_mean_probability():
    torch.testing.assert_close(alpha_po_reward(MEANS, alpha=0.5), (1 - MEANS.exp() ** -0.5) / 0.5)


def test_simper_is_a_difference_of_inverse_perplexities():
    torch.testing.assert_close(simper.formula(MEANS, MEANS.flip(0)), MEANS.flip(0).exp() - MEANS.exp())


@pytest.mark.parametrize("name", ["simpo", "alpha_po", "simper", "cpo", "orpo", "slic", "nll", "nll_sequence_mean"])
def test_no_reference_is_needed_and_one_that_is_given_is_not_read(name):
    policy, reference = golden_pairs()
    loss = load(name)
    assert loss.needs_reference is False
    torch.testing.assert_close(loss(policy, None), loss(policy, reference))
