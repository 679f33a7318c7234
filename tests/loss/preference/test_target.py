import torch

from rlx.loss.preference.margin import hinge, ipo
from tests.loss.catalogue import golden_pairs, load


def test_ipo_has_no_gradient_at_its_target_margin():
    margin = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)  # 1/(2 · 0.2)
    (gradient,) = torch.autograd.grad(ipo.formula(margin, beta=0.2).sum(), margin)
    assert gradient.item() == 0


def test_the_hinge_lets_go_at_a_scaled_margin_of_one():
    margin = torch.tensor([9.9, 10.1], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(hinge.formula(margin, beta=0.1).sum(), margin)
    torch.testing.assert_close(gradient, torch.tensor([-0.1, 0.0], dtype=torch.float64))


def test_the_normalised_form_reads_means_and_so_do_its_rewards():
    policy, reference = golden_pairs()
    loss = load("ipo_normalized", beta=0.2)
    chosen = (policy.chosen_sum - reference.chosen_sum) / torch.tensor([3.0, 2.0, 2.0], dtype=torch.float64)
    rejected = (policy.rejected_sum - reference.rejected_sum) / torch.tensor([4.0, 3.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(loss(policy, reference), (chosen - rejected - 2.5) ** 2)
    torch.testing.assert_close(loss.implicit_rewards(policy, reference), (0.2 * chosen, 0.2 * rejected))
