import pytest
import torch

from rlx.loss.preference.margin import dpo
from rlx.loss.preference.modifier import alpha_score, forward_kl_score, jensen_shannon_score
from tests.loss.catalogue import golden_pairs, load

X = torch.linspace(-3, 3, 13, dtype=torch.float64)
# f of each divergence of u = π/π0, whose derivative at u = e^x is the score, up to a constant
GENERATORS = {
    "forward_kl": (lambda u: -torch.log(u), forward_kl_score),
    "jensen_shannon": (lambda u: u * torch.log(u) - (u + 1) * torch.log((u + 1) / 2), jensen_shannon_score),
    "alpha": (lambda u: (u**0.5 - 0.5 * u - 0.5) / (0.5 * (0.5 - 1)), lambda x: alpha_score(x, alpha=0.5)),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_score_is_the_derivative_of_its_divergence(name):
    generator, score = GENERATORS[name]
    ratio = X.exp().requires_grad_()
    (slope,) = torch.autograd.grad(generator(ratio).sum(), ratio)
    middle = len(X) // 2
    torch.testing.assert_close(score(X), slope - slope[middle])


@pytest.mark.parametrize("score", [forward_kl_score, jensen_shannon_score, lambda x: alpha_score(x, alpha=0.3)])
def test_a_score_is_zero_at_the_reference_and_grows_with_slope_one_over_there(score):
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert score(x).item() == pytest.approx(0, abs=1e-15)
    assert bool((score(X).diff() > 0).all())


def test_alpha_goes_from_the_forward_to_the_reverse_kl():
    torch.testing.assert_close(alpha_score(X, alpha=0), forward_kl_score(X))
    torch.testing.assert_close(alpha_score(X, alpha=1), X)
    torch.testing.assert_close(alpha_score(X, alpha=1 - 1e-5), X, rtol=1e-4, atol=1e-4)


def test_the_score_takes_the_place_of_the_log_ratio_in_the_loss():
    policy, reference = golden_pairs()
    a, b = policy.chosen_sum - reference.chosen_sum, policy.rejected_sum - reference.rejected_sum
    expected = dpo.formula(jensen_shannon_score(a) - jensen_shannon_score(b), beta=0.1)
    torch.testing.assert_close(load("dpo_jensen_shannon")(policy, reference), expected)
    reverse = load("dpo", modifiers={"f": {"_target_": "rlx.loss.preference.modifier.ReverseKl"}})
    torch.testing.assert_close(reverse(policy, reference), dpo.formula(a - b, beta=0.1))
