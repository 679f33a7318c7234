import pytest
import torch

from rlx.loss.preference.completion import apo_down, apo_zero, bco, nca, sppo


def slopes(function, *, chosen: float = 0.0, rejected: float = 0.0, **hyperparameters: float) -> tuple[float, float]:
    """The gradient with respect to the chosen and the rejected log-ratio."""
    leaves = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (chosen, rejected)]
    gradients = torch.autograd.grad(function.formula(*leaves, **hyperparameters).sum(), leaves)
    return gradients[0].item(), gradients[1].item()


def test_nca_pushes_the_chosen_up_and_both_down():
    # d/da: -β σ(0) + ½ β σ(0) = -β/4; d/db: ½ β σ(0) = β/4
    assert slopes(nca, beta=0.2) == pytest.approx((-0.05, 0.05))


def test_bco_is_undecided_at_its_shift():
    assert slopes(bco, chosen=3.0, rejected=3.0, beta=0.5, reward_shift=1.5) == pytest.approx((-0.25, 0.25))


def test_sppo_rests_at_half_over_beta_each():
    assert slopes(sppo, chosen=2.5, rejected=-2.5, beta=0.2) == pytest.approx((0, 0))


def test_apo_zero_raises_the_chosen_and_lowers_the_rejected():
    assert slopes(apo_zero, beta=0.4) == pytest.approx((-0.1, 0.1))


def test_apo_down_lowers_both_once_they_are_apart():
    chosen, rejected = slopes(apo_down, chosen=0.0, rejected=-20.0, beta=0.4)
    assert chosen > 0
    assert rejected > 0
    # At the reference its two terms cancel on the chosen completion: β/4 - β/4.
    assert slopes(apo_down, beta=0.4) == pytest.approx((0, 0.1))
