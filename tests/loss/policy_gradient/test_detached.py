from typing import Any

import torch

from rlx.loss.policy_gradient.token import binary_kl, dppo_kl, dppo_tv
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
RATIO = (G["token_logprobs"] - G["sampling_logprobs"]).exp()


def gradient(name: str, **overrides: object) -> torch.Tensor:
    leaf = G["token_logprobs"].clone().requires_grad_()
    (found,) = torch.autograd.grad(load(name, **overrides)(**(G | {"token_logprobs": leaf})).sum(), leaf)
    return found


def test_cispo_weighs_every_token_by_its_ratio_within_the_band():
    expected = -RATIO.clamp(0.8, 1.3) * G["advantages"][:, None]
    torch.testing.assert_close(gradient("cispo_band", clip_low=0.2, clip_high=0.3), torch.where(MASK, expected, 0.0))


def test_the_cap_is_absolute_and_has_no_lower_end():
    expected = -RATIO.clamp(max=1.3) * G["advantages"][:, None]
    torch.testing.assert_close(gradient("cispo_cap", ratio_cap=1.3), torch.where(MASK, expected, 0.0))
    torch.testing.assert_close(gradient("cispo", clip_low=1.0, clip_high=0.3), gradient("cispo_cap", ratio_cap=1.3))


SAMPLED = torch.tensor([0.5, 0.5, 0.5, 0.01], dtype=torch.float64)
POLICY = torch.tensor([0.75, 0.55, 0.25, 0.15], dtype=torch.float64)


def region(loss: Any, advantage: float, bound: float) -> torch.Tensor:
    """bool [4] where tokens of this advantage still count."""
    advantages, ratio = torch.full((4,), advantage, dtype=torch.float64), POLICY / SAMPLED
    values = loss.formula(POLICY.log(), SAMPLED.log(), ratio, advantages, divergence_low=bound, divergence_high=bound)
    return values != 0


def test_the_total_variation_region_is_of_the_probability_not_of_the_ratio():
    rising, falling = region(dppo_tv, 1.0, 0.2), region(dppo_tv, -1.0, 0.2)
    assert rising.tolist() == [False, True, True, True]  # the last ratio is 15, but the change only .14
    assert falling.tolist() == [True, True, False, True]


def test_the_kl_region_lets_back_what_has_left_it():
    rising, falling = region(dppo_kl, 1.0, 0.05), region(dppo_kl, -1.0, 0.05)
    assert rising.tolist() == [False, True, True, False]
    assert falling.tolist() == [True, True, False, True]


def test_the_binary_kl_is_that_of_a_token_against_all_others():
    expected = SAMPLED * (SAMPLED / POLICY).log() + (1 - SAMPLED) * ((1 - SAMPLED) / (1 - POLICY)).log()
    torch.testing.assert_close(binary_kl(POLICY.log(), SAMPLED.log()), expected, rtol=1e-6, atol=1e-7)
    assert bool(torch.isfinite(binary_kl(torch.zeros(1), torch.tensor([-1e4]))).all())


def test_dppo_drops_what_is_outside_and_truncates_the_ratio_inside():
    found = gradient("dppo_tv", divergence_low=0.1, divergence_high=0.1, ratio_cap=1.1)
    change, advantages = G["token_logprobs"].exp() - G["sampling_logprobs"].exp(), G["advantages"][:, None]
    inside = torch.where(advantages > 0, change <= 0.1, change >= -0.1) & MASK
    assert bool(inside.any() & (~inside & MASK).any())
    torch.testing.assert_close(found, torch.where(inside, -advantages * RATIO.clamp(max=1.1), 0.0))
