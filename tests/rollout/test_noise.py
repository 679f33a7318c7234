import pytest
import torch

from rlx.rollout.draw import with_reward_noise
from rlx.seeding import Stream

REWARDS = {"reward": torch.arange(400.0).reshape(50, 8), "length": -torch.arange(400.0).reshape(50, 8)}


def test_none_changes_nothing():
    assert with_reward_noise(REWARDS, 0.0, rng=Stream(0)) == REWARDS


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_of_the_completions_exchange_their_rewards_with_all_parts(share):
    noisy = with_reward_noise(REWARDS, share, rng=Stream(0))
    assert torch.equal(noisy["length"], -noisy["reward"])
    assert torch.equal(noisy["reward"].flatten().sort().values, REWARDS["reward"].flatten())
    moved = (noisy["reward"] != REWARDS["reward"]).double().mean().item()
    assert share - 0.03 <= moved <= share
    groups = noisy["reward"].div(8, rounding_mode="floor") == torch.arange(50)[:, None]
    assert groups.double().mean().item() < 1 - share + 0.05  # they go to other groups too
    assert torch.equal(REWARDS["reward"], torch.arange(400.0).reshape(50, 8))


def test_the_stream_decides_who_exchanges():
    first, again, other = (with_reward_noise(REWARDS, 0.5, rng=Stream(seed))["reward"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
