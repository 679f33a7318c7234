"""A laboratory of given numbers: everybody in it agrees, and its policy's parameters are its numbers."""

import torch

from tests.check.checking import subject
from tests.check.faulty import Preferences, Rewards


def test_without_spread_policy_sampler_and_reference_agree():
    checked = subject(Rewards())
    setting = checked.stand_in(spread=0.0)
    batch = checked.first_update(setting)
    ours = setting.policy.token_logprobs(batch.sequences).detach()
    torch.testing.assert_close(ours, setting.reference.token_logprobs(batch.sequences))
    torch.testing.assert_close(ours.float(), batch.sampling_logprobs.float())


def test_a_drift_lowers_the_reference_alone():
    checked = subject(Preferences())
    near, far = checked.stand_in(spread=0.0), checked.stand_in(spread=0.0, drift=0.5)
    batch = checked.first_update(near)
    mask = batch.sequences.completion_mask
    gap = near.reference.token_logprobs(batch.sequences) - far.reference.token_logprobs(batch.sequences)
    torch.testing.assert_close(gap[mask], torch.full_like(gap[mask], 0.5))
    assert torch.equal(near.policy.token_logprobs(batch.sequences), far.policy.token_logprobs(batch.sequences))


def test_the_gradient_of_a_log_probability_is_that_of_its_leaf():
    checked = subject(Preferences())
    setting = checked.stand_in()
    batch = checked.first_update(setting)
    setting.policy.token_logprobs(batch.sequences).sum().backward()
    assert setting.policy.leaf_names == ["token_logprobs"]
    assert bool((setting.policy.parameters()[0].grad == 1).all())
