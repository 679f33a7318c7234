"""The slope of each loss in the log-probability of a token, by ratio and sign of the advantage."""

import pytest
import torch
from torch import Tensor

from rlx.loss.policy_gradient.signed import aspo, ce_gppo, dispo, topr
from rlx.loss.policy_gradient.token import cispo_band, clipped

RATIOS = [0.5, 0.9, 1.0, 1.1, 1.5, 5.0]


def slope(formula, advantage: float, **hyperparameters: float) -> list[float]:
    """-d loss / d log π over A, at each of RATIOS: what the gradient of A log π is multiplied by."""
    logprobs = torch.tensor(RATIOS, dtype=torch.float64).log().requires_grad_()  # the sampler's are 0
    advantages = torch.full_like(logprobs, advantage)
    given: dict[str, Tensor] = {"ratio": logprobs.exp(), "token_logprobs": logprobs, "summed_log_ratio": logprobs}
    loss = formula.formula(*(given.get(name, advantages) for name in formula.reads), **hyperparameters)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return (-gradient / advantage).tolist()


def test_topr_learns_good_completions_as_demonstrations_and_leaves_bad_ones_that_are_gone():
    assert slope(topr, 1.0) == pytest.approx([1.0] * 6)
    assert slope(topr, -1.0) == pytest.approx([0.5, 0.9, 1, 1, 1, 1])
    assert slope(topr, -2.0, ratio_cap=1.2) == pytest.approx([0.5, 0.9, 1, 1.1, 1.2, 1.2])


def test_aspo_turns_the_ratio_upside_down_where_the_advantage_is_positive():
    assert slope(aspo, 1.0, inverse_cap=1.5) == pytest.approx([1.5, 1 / 0.9, 1, 1 / 1.1, 0, 0])
    assert slope(aspo, -1.0) == slope(clipped, -1.0)


def test_dispo_has_four_ends_and_is_cispo_with_the_same_on_both_sides():
    ends = {"positive_low": 0.2, "positive_high": 1.0, "negative_low": 0.4, "negative_high": 0.05}
    assert slope(dispo, 1.0, **ends) == pytest.approx([0.8, 0.9, 1, 1.1, 1.5, 2.0])
    assert slope(dispo, -1.0, **ends) == pytest.approx([0.6, 0.9, 1, 1.05, 1.05, 1.05])
    assert slope(dispo, -1.0) == slope(cispo_band, -1.0, clip_low=1.0, clip_high=4.0)


def test_ce_gppo_keeps_a_bounded_share_of_what_the_clip_drops():
    kept = {"kept_low": 0.5, "kept_high": 0.75}
    assert slope(ce_gppo, 1.0, **kept) == pytest.approx([0.5, 0.9, 1, 1.1, 0.75 * 1.2, 0.75 * 1.2])
    assert slope(ce_gppo, -1.0, **kept) == pytest.approx([0.5 * 0.8, 0.9, 1, 1.1, 1.5, 5.0])
    for advantage in (1.0, -1.0):
        assert slope(ce_gppo, advantage, kept_low=0.0, kept_high=0.0) == pytest.approx(slope(clipped, advantage))
