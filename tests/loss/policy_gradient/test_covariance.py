import pytest
import torch

from rlx.errors import ConfigError
from rlx.loss.policy_gradient.covariance import clip_cov, number_of_tokens, token_covariance
from rlx.seeding import Stream
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
SPREAD = G["advantages"][:, None].expand(MASK.shape)


def test_the_covariances_average_to_that_of_the_batch():
    covariance = token_covariance(G["token_logprobs"], SPREAD, MASK)
    pairs = torch.stack([SPREAD[MASK], G["token_logprobs"][MASK]])
    torch.testing.assert_close(covariance[MASK].mean(), torch.cov(pairs, correction=0)[0, 1])
    assert bool((covariance[~MASK] == -torch.inf).all())


def test_at_least_one_token_is_taken_where_there_is_one():
    assert number_of_tokens(MASK, 0.0002) == 1
    assert number_of_tokens(MASK, 0.5) == 7
    assert number_of_tokens(torch.zeros_like(MASK), 0.5) == 0


def test_kl_cov_holds_the_tokens_of_largest_covariance_and_no_others():
    held, free = load("kl_cov", share=0.2, penalty=0.7), load("kl_cov", share=0.2, penalty=0.0)
    difference = held(**G) - free(**G)
    chosen = token_covariance(G["token_logprobs"], SPREAD, MASK).reshape(-1).topk(2).indices
    log_ratio = (G["token_logprobs"] - G["sampling_logprobs"]).abs().reshape(-1)
    expected = torch.zeros(MASK.numel(), dtype=torch.float64)
    expected[chosen] = 0.7 * log_ratio[chosen]
    torch.testing.assert_close(difference.reshape(-1), expected)


def test_clip_cov_drops_a_share_of_the_tokens_within_its_bounds_by_its_stream():
    loss = load("clip_cov", share=0.2, covariance_low=-10, covariance_high=10)
    draws = [loss(**G, rng=rng) for rng in (Stream(1), Stream(1).torch(), Stream(2))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    clipped = load("clipped")(**G)
    for values in draws:
        dropped = (values == 0) & MASK
        assert dropped.sum() == 2
        torch.testing.assert_close(values[~dropped], clipped[~dropped])


def test_clip_cov_drops_nothing_where_no_token_is_within_its_bounds():
    loss = load("clip_cov", covariance_low=50, covariance_high=60)
    torch.testing.assert_close(loss(**G, rng=Stream(0).torch()), load("clipped")(**G))


def test_bounds_that_hold_nothing_are_refused():
    with pytest.raises(ConfigError, match="no token lies between them"):
        clip_cov(clip_low=0.2, clip_high=0.2, share=0.1, covariance_low=5, covariance_high=1)
