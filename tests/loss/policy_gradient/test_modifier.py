import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.policy_gradient.base import RolloutLogprobs
from rlx.loss.policy_gradient.modifier import MaskedCorrection, masked_correction, stale_negatives, truncated_correction
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
X = torch.tensor([0.4, 0.6, 1.0, 2.0, 6.0], dtype=torch.float64).log()


def test_truncation_caps_and_masking_drops():
    assert truncated_correction(X, cap=2.0).tolist() == pytest.approx([0.4, 0.6, 1.0, 2.0, 2.0])
    assert masked_correction(X, low=0.5, high=5.0).tolist() == pytest.approx([0, 0.6, 1.0, 2.0, 0])


def test_a_correction_multiplies_the_surrogate_as_a_constant_and_leaves_the_kl():
    proximal = G["sampling_logprobs"] + torch.where(MASK, 0.3, 0.0)
    given = G | {"sampling_logprobs": proximal}  # without a correction the ratio to the proximal policy is this
    for beta in (0.0, 0.2):
        plain, corrected = (load(name, beta=beta, kl_gradient="plain") for name in ("clipped", "clipped_truncated_correction"))
        kl = plain(**given) - load("clipped")(**given)
        expected = min(torch.e**0.3, 2.0) * load("clipped")(**given) + kl
        torch.testing.assert_close(corrected(**G, proximal_logprobs=proximal), expected)


def test_a_sequence_outside_of_the_band_is_dropped_whole():
    proximal = G["sampling_logprobs"].clone()
    proximal[0, 0] += 0.02  # a mean of 0.005 over four tokens
    values = load("clipped_sequence_masked_correction")(**G, proximal_logprobs=proximal)
    assert bool((values[0] == 0).all())
    torch.testing.assert_close(values[1:], load("clipped")(**G)[1:])


def test_stale_negatives_are_bad_completions_that_the_policy_left():
    rollouts = RolloutLogprobs.of(*(G[name] for name in ("token_logprobs", "sampling_logprobs", "advantages")), MASK, None)
    fallen = torch.where(MASK, G["sampling_logprobs"] - G["token_logprobs"], 0.0).sum(dim=1) / MASK.sum(dim=1)
    expected = ((G["advantages"] < 0) & (fallen > -0.1))[:, None].expand(MASK.shape)
    assert torch.equal(stale_negatives(rollouts, threshold=-0.1), expected)
    assert bool(expected.any() & ~expected.all())


def test_where_sampler_and_trainer_agree_nothing_changes():
    plain = load("clipped")(**G)
    for name in ("clipped_truncated_correction", "clipped_masked_correction", "clipped_sequence_masked_correction"):
        torch.testing.assert_close(load(name)(**G, proximal_logprobs=G["sampling_logprobs"]), plain)


def test_a_band_must_have_width_and_hold_one():
    with pytest.raises(ConfigError, match="a band needs width"):
        MaskedCorrection(low=1, high=1)
    with pytest.raises(ConfigError, match="the band must hold 1"):
        MaskedCorrection(low=1.5, high=2)
