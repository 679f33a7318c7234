import torch

from rlx.loss.preference.margin import cal_dpo, dpo, dpop, r_dpo, tdpo

MARGIN = torch.linspace(-6, 6, 7, dtype=torch.float64)


def test_each_is_dpo_without_its_own_term():
    expected, kl = dpo.formula(MARGIN, beta=0.3), torch.rand(7, 4, dtype=torch.float64)
    torch.testing.assert_close(dpop.formula(MARGIN, -MARGIN, beta=0.3, penalty=0), expected)
    torch.testing.assert_close(r_dpo.formula(MARGIN, MARGIN, -MARGIN, beta=0.3, length_penalty=0), expected)
    torch.testing.assert_close(tdpo.formula(MARGIN, kl, kl + 1, beta=0.3, kl_scale=0), expected)


def test_dpop_punishes_only_a_chosen_completion_that_lost_likelihood():
    kept, lost = torch.tensor([0.5, -0.5], dtype=torch.float64), torch.tensor([2.0, 2.0], dtype=torch.float64)
    # the margin of the second is 2 - 5 · 0.5
    expected = dpo.formula(torch.tensor([2.0, -0.5], dtype=torch.float64), beta=0.1)
    torch.testing.assert_close(dpop.formula(lost, kept, beta=0.1, penalty=5), expected)


def test_r_dpo_asks_less_where_the_chosen_completion_is_longer():
    # The optimum of reward - α n - β KL has the implicit reward β log(π/π0) + α n, so a longer chosen one is ahead already.
    longer, shorter = (
        r_dpo.formula(MARGIN, torch.full_like(MARGIN, n), torch.full_like(MARGIN, 6.0), length_penalty=0.1) for n in (9.0, 3.0)
    )
    assert bool((longer < shorter).all())


def test_cal_dpo_rests_where_both_log_ratios_are_at_their_targets():
    chosen = torch.tensor([5.0], dtype=torch.float64, requires_grad=True)
    calibrated = cal_dpo.formula(chosen, -chosen, beta=0.1) - dpo.formula(2 * chosen, beta=1.0)
    (gradient,) = torch.autograd.grad(calibrated.sum(), chosen)
    assert abs(gradient.item()) < 1e-12


def test_tdpo_takes_no_gradient_through_the_chosen_kl_and_one_through_the_rejected():
    chosen, rejected = (torch.tensor([[0.1, 0.3]], dtype=torch.float64, requires_grad=True) for _ in range(2))
    value = tdpo.formula(torch.zeros(1, dtype=torch.float64), chosen, rejected, beta=0.1, kl_scale=0.5)
    gradients = torch.autograd.grad(value.sum(), [chosen, rejected], allow_unused=True)
    assert gradients[0] is None
    assert bool((gradients[1] > 0).all())  # more drift on the rejected completion makes the loss larger
