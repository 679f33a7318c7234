"""DPO and its relatives; golden numbers and values at the reference of all preference losses."""

import math

import pytest
import torch

from rlx.loss.preference.margin import dpo, dpo_conservative, dpo_robust
from tests.loss.catalogue import golden_pairs, load

GOLDEN = [
    ("dpo", {}, 0.6480267493),
    ("hinge", {}, 0.9066666667),
    ("ipo", {}, 16.905),
    ("ipo_normalized", {}, 22.0075231481),
    ("dpo_conservative", {"label_smoothing": 0.1}, 0.6573600826),
    ("nca", {}, 1.3641877263),
    ("apo_zero", {}, 0.9766810675),
    ("dpo_normalized", {"beta": 0.1}, 0.6774273626),
    ("simpo", {"beta": 2, "gamma": 0.5}, 0.6248515884),
]


@pytest.mark.parametrize(("name", "overrides", "expected"), GOLDEN, ids=[name for name, _, _ in GOLDEN])
def test_golden_numbers_that_several_systems_agree_on(name, overrides, expected):
    loss, (policy, reference) = load(name, **overrides), golden_pairs()
    total = (loss.weights(policy.chosen_mask) * loss(policy, reference)).sum()
    assert total.item() == pytest.approx(expected, abs=5e-11)


LOG_2, HALF = math.log(2), 1 / (2 * 0.1)
# a = b = 0 in every formula, with the hyperparameters of the YAML.
AT_REFERENCE = {
    **dict.fromkeys(["dpo", "dpo_conservative", "dpo_robust", "dpo_normalized", "dpop", "aot", "aot_unpaired", "tdpo"], LOG_2),
    **dict.fromkeys(["dpo_forward_kl", "dpo_jensen_shannon", "dpo_alpha_divergence", "ld_dpo", "humanline_dpo", "wpo"], LOG_2),
    "ipo": HALF**2,
    "ipo_normalized": HALF**2,
    "hinge": 1.0,
    "exo": 0.5 * (math.log(0.5) - math.log(0.999)) + 0.5 * (math.log(0.5) - math.log(0.001)),
    "discopop": 0.5 * LOG_2 + 0.5,
    "nca": 2 * LOG_2,
    "bco": 2 * LOG_2,
    "sppo": 2 * HALF**2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "cal_dpo": LOG_2 + 2 * 500**2,
    "kto": 0.5,
    "kto_pair": 0.5,
}


@pytest.mark.parametrize(("name", "expected"), AT_REFERENCE.items())
def test_the_value_where_policy_and_reference_agree(name, expected):
    from dataclasses import replace

    policy, _ = golden_pairs()
    even = {f"{side}_sum_p_squared": getattr(policy, side).exp() for side in ("chosen", "rejected")}  # WPO's weight is then 1
    calm = {f"{side}_vocabulary_kl": torch.zeros_like(getattr(policy, side)) for side in ("chosen", "rejected")}
    pairs = replace(policy, mismatched=torch.zeros(3, 2, dtype=torch.float64), **even, **calm)
    torch.testing.assert_close(load(name)(pairs, pairs), torch.full((3,), expected, dtype=torch.float64))


def test_dpo_starts_with_a_gradient_of_half_beta():
    margin = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(dpo.formula(margin, beta=0.3).sum(), margin)
    # -beta σ(0) of the chosen sum, and + that of the rejected one
    torch.testing.assert_close(gradient, torch.full((2,), -0.15, dtype=torch.float64))


def test_without_smoothing_conservative_and_robust_dpo_are_dpo():
    margin = torch.linspace(-30, 30, 13, dtype=torch.float64)
    for other in (dpo_conservative, dpo_robust):
        torch.testing.assert_close(other.formula(margin, beta=0.3, label_smoothing=0.0), dpo.formula(margin, beta=0.3))


def test_robust_dpo_averages_to_dpo_over_flipped_labels():
    # With probability ε the pair is presented the wrong way round.
    margin, share = torch.linspace(-5, 5, 11, dtype=torch.float64), 0.2
    robust = [dpo_robust.formula(sign * margin, beta=0.7, label_smoothing=share) for sign in (1, -1)]
    torch.testing.assert_close((1 - share) * robust[0] + share * robust[1], dpo.formula(margin, beta=0.7))


def test_conservative_dpo_is_lowest_where_the_model_believes_in_the_noise():
    margin = torch.tensor([math.log(0.9 / 0.1) / 0.5], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(dpo_conservative.formula(margin, beta=0.5, label_smoothing=0.1).sum(), margin)
    assert gradient.abs().item() < 1e-12
