"""Clips of a token's ratio; golden numbers and the gradient on policy of all policy-gradient losses."""

import pytest
import torch

from rlx.check.law.loss import case_of
from rlx.loss import RolloutLogprobs
from rlx.loss.policy_gradient.token import capped, clipped, dual_clip
from tests.loss.catalogue import POLICY_GRADIENT, golden_rollouts, load

EVEN = {"clip_low": 0.2, "clip_high": 0.2}
GOLDEN = [
    ("clipped", EVEN, 0.0319201949),
    ("grpo", EVEN, 0.08691273),
    ("gspo", EVEN, 0.0200015427),
    ("cispo_band", EVEN, 0.0750553935),
    ("cispo", EVEN, 0.0750553935),
]


def total(name: str, **overrides: object) -> torch.Tensor:
    loss, rollouts = load(name, **overrides), golden_rollouts()
    return (loss.weights(rollouts["completion_mask"]) * loss(**rollouts)).sum()


@pytest.mark.parametrize(("name", "overrides", "expected"), GOLDEN, ids=[name for name, _, _ in GOLDEN])
def test_golden_numbers_that_several_systems_agree_on(name, overrides, expected):
    assert total(name, **overrides).item() == pytest.approx(expected, abs=5e-9 if name == "grpo" else 5e-11)


def test_the_loss_with_a_kl_of_either_gradient_has_the_value_that_trl_gives():
    given = {**EVEN, "beta": 0.04, "kl_estimator": "k3"}
    assert total("clipped", **given, kl_gradient="plain").item() == pytest.approx(0.0332716, abs=5e-8)
    assert total("clipped", **given, kl_gradient="importance_weighted").item() == pytest.approx(0.0332094, abs=5e-8)


@pytest.mark.parametrize("name", [name for name in POLICY_GRADIENT if name not in ("clip_cov", "clipped_high_entropy")])
def test_on_policy_every_surrogate_has_the_gradient_of_reinforce(name):
    """Where the policy has not moved, d loss / d log π = -weight · A, whatever the surrogate (two drop tokens on purpose)."""
    case = case_of(load(name))
    same = dict.fromkeys(("sampling_logprobs", "reference_logprobs", "proximal_logprobs"), case.tensors["token_logprobs"])
    _, gradients = case.with_tensors(**same).gradients()
    torch.testing.assert_close(gradients["token_logprobs"], -case.weights * case.tensors["advantages"][:, None])


ON_POLICY = {"clipped": -1.0, "dual_clip": -1.0, "capped": -1.0, "gspo": -1.0, "gmpo": -1.0, "kl_cov": -1.0, "sapo": -2.0}


@pytest.mark.parametrize(("name", "expected"), ON_POLICY.items())
def test_the_value_on_policy_is_minus_the_advantage_except_where_the_docstring_says_otherwise(name, expected):
    case = case_of(load(name))
    same = dict.fromkeys(("sampling_logprobs",), case.tensors["token_logprobs"])
    values = case.with_tensors(**same).evaluate(case.tensors | same)
    advantages = torch.where(case.tensors["completion_mask"], case.tensors["advantages"][:, None], 0.0)
    scale = torch.where(advantages > 0, 1.0, 1.05) if name == "sapo" else 1.0
    torch.testing.assert_close(values * scale, expected * advantages, rtol=1e-6, atol=1e-12)


RATIO = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5, 5.0], dtype=torch.float64)


def slope(function, advantage: float, **hyperparameters: float) -> list[float]:
    log_ratio = RATIO.log().requires_grad_()
    values = function.formula(log_ratio.exp(), torch.full_like(RATIO, advantage), **hyperparameters)
    return torch.autograd.grad(values.sum(), log_ratio)[0].tolist()


def test_the_clip_stops_only_the_side_that_would_go_further():
    assert slope(clipped, 1.0, clip_low=0.2, clip_high=0.3) == pytest.approx([-0.5, -0.9, -1.0, -1.1, 0, 0])
    assert slope(clipped, -1.0, clip_low=0.2, clip_high=0.3) == pytest.approx([0, 0.9, 1.0, 1.1, 1.5, 5.0])


def test_the_dual_clip_bounds_a_negative_advantage_too():
    given = {"clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0}
    assert slope(dual_clip, -1.0, **given) == pytest.approx([0, 0.9, 1.0, 1.1, 1.5, 0])
    assert slope(dual_clip, 1.0, **given) == slope(clipped, 1.0, clip_low=0.2, clip_high=0.3)


def test_a_cap_above_the_clip_is_the_dual_clip():
    advantages = torch.tensor([1.0, -1.0, 2.0, -2.0, 0.5, -0.5], dtype=torch.float64)
    clips = {"clip_low": 0.2, "clip_high": 0.3}
    dual = dual_clip.formula(RATIO, advantages, **clips, dual_clip=3.0)
    torch.testing.assert_close(capped.formula(RATIO, advantages, **clips, ratio_cap=3.0), dual)


def test_the_ratio_is_finite_and_without_a_gradient_beyond_twenty():
    log_ratio = torch.tensor([50.0, -50.0], requires_grad=True)
    mask, zero = torch.ones(2, dtype=torch.bool), torch.zeros(2)
    values = RolloutLogprobs.of(log_ratio, zero, zero, mask, None).ratio
    (gradient,) = torch.autograd.grad(values.sum(), log_ratio)
    assert bool(torch.isfinite(values).all())
    assert gradient.tolist() == [0, 0]
