import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.advantage.token import (
    Gae,
    discounted_returns,
    gae_by_length,
    generalized_advantage,
    reinforce_plus_plus,
    whitened,
)

RNG = torch.Generator().manual_seed(2)
MASK = torch.arange(5) < torch.tensor([[5], [2], [3], [0]])
REWARDS, VALUES = (torch.randn(4, 5, generator=RNG, dtype=torch.float64) for _ in range(2))


def test_returns_add_up_what_is_still_to_come():
    found = discounted_returns(REWARDS, MASK, gamma=0.9)
    for row, length in enumerate(MASK.sum(dim=1).tolist()):
        for step in range(5):
            later = sum(0.9 ** (t - step) * REWARDS[row, t].item() for t in range(step, length))
            assert found[row, step].item() == pytest.approx(later if step < length else 0)


def test_whitened_tokens_have_mean_zero_and_variance_one():
    found = whitened(REWARDS, MASK, epsilon=1e-12)[MASK]
    assert found.mean().item() == pytest.approx(0, abs=1e-12)
    assert found.var().item() == pytest.approx(1)


def gae(gamma: float, lam: float) -> torch.Tensor:
    return generalized_advantage(REWARDS, VALUES, MASK, gamma=gamma, lam=lam)


def test_gae_is_the_one_step_error_at_lambda_zero_and_the_return_minus_the_value_at_one():
    after = torch.cat([torch.where(MASK, VALUES, 0.0)[:, 1:], torch.zeros(4, 1, dtype=torch.float64)], dim=1)
    one_step = torch.where(MASK, REWARDS + 0.9 * after - VALUES, 0.0)
    torch.testing.assert_close(gae(0.9, 0.0), one_step)
    torch.testing.assert_close(gae(0.9, 1.0), torch.where(MASK, discounted_returns(REWARDS, MASK, gamma=0.9) - VALUES, 0.0))


def test_gae_is_the_discounted_sum_of_one_step_errors():
    torch.testing.assert_close(gae(0.9, 0.7), discounted_returns(gae(0.9, 0.0), MASK, gamma=0.63))


def test_returns_are_advantages_before_whitening_plus_values():
    node = Gae(gamma=0.9, lam=0.7, whiten=True, epsilon=1e-8)
    torch.testing.assert_close(node.returns(REWARDS, MASK, VALUES), gae(0.9, 0.7) + torch.where(MASK, VALUES, 0.0))
    torch.testing.assert_close(node(REWARDS, MASK, values=VALUES), whitened(gae(0.9, 0.7), MASK, epsilon=1e-8))
    plain = Gae(gamma=0.9, lam=0.7, whiten=False, epsilon=1e-8)
    torch.testing.assert_close(plain(REWARDS, MASK, values=VALUES), gae(0.9, 0.7))


def test_reinforce_plus_plus_whitens_returns_and_needs_no_group():
    found = reinforce_plus_plus(gamma=1.0, epsilon=1e-8)(REWARDS[:1], MASK[:1])
    torch.testing.assert_close(found, whitened(discounted_returns(REWARDS[:1], MASK[:1], gamma=1.0), MASK[:1], epsilon=1e-8))


def test_what_stands_in_the_padding_does_not_matter():
    dirty = [torch.where(MASK, tensor, torch.nan) for tensor in (REWARDS, VALUES)]
    torch.testing.assert_close(generalized_advantage(*dirty, MASK, gamma=0.9, lam=0.7), gae(0.9, 0.7))


def test_missing_values_and_wrong_shapes_are_named():
    with pytest.raises(ShapeError, match="Gae needs values"):
        Gae(gamma=1, lam=1, whiten=False, epsilon=1e-8)(REWARDS, MASK)
    with pytest.raises(ShapeError, match="token_rewards is"):
        reinforce_plus_plus(gamma=1, epsilon=1e-8)(REWARDS[:, :3], MASK)


def test_what_others_write_between_two_tokens_is_no_step():
    """Returns and advantages with gaps are those of the learned tokens alone, in a row."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = (torch.randn(2, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    mask = torch.tensor([[1, 1, 0, 0, 1, 1, 0], [1, 0, 1, 0, 0, 1, 1]], dtype=torch.bool)
    for row in range(2):
        own = mask[row]
        dense = [tensor[row][own][None] for tensor in (rewards, values)]
        whole = torch.ones(1, int(own.sum()), dtype=torch.bool)
        returns = discounted_returns(rewards, mask, gamma=0.9)[row]
        assert torch.allclose(returns[own], discounted_returns(dense[0], whole, gamma=0.9)[0])
        advantages = generalized_advantage(rewards, values, mask, gamma=0.9, lam=0.8)[row]
        assert torch.allclose(advantages[own], generalized_advantage(*dense, whole, gamma=0.9, lam=0.8)[0])
        assert not returns[~own].any()
        assert not advantages[~own].any()


def test_gae_by_length_reaches_further_back_in_longer_completions():
    found = gae_by_length(alpha=0.25)(REWARDS, MASK, values=VALUES)
    for row, lam in enumerate([1 - 1 / (0.25 * 5), 0.0, 0.0, 0.0]):  # lengths 5, 2, 3, 0: at most 1 / alpha tokens give 0
        torch.testing.assert_close(found[row], gae(1.0, lam)[row])
