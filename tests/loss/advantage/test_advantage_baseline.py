import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.advantage.completion import best_of_group, gpg, group_centered, max_rl, opo, remax
from tests.loss.advantage.test_completion import LENGTHS, REWARDS, of


def test_remax_takes_one_completion_and_needs_the_greedy_reward():
    greedy = torch.tensor([0.5, 0.1], dtype=torch.float64)
    found = remax()(REWARDS[:, :1], greedy_rewards=greedy)
    assert found.flatten().tolist() == pytest.approx([0.5, 0.1])
    with pytest.raises(ShapeError, match="remax needs greedy_rewards"):
        remax()(REWARDS)


def test_opo_makes_the_advantages_weighed_by_length_sum_to_zero():
    torch.testing.assert_close((of(opo()) * LENGTHS).sum(dim=1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(of(opo())[1], of(group_centered())[1])


def test_gpg_makes_up_for_groups_without_signal():
    half = torch.stack([torch.ones(4, dtype=torch.float64), REWARDS[1]])
    torch.testing.assert_close(of(gpg(divisor=1.0), half), 2 * of(group_centered(), half))


def test_pass_at_k_gives_the_best_its_lead_and_the_others_nothing():
    torch.testing.assert_close(of(best_of_group()), torch.tensor([[0.5, 0, 0, 0], [0, 0.5, 0, 0]], dtype=torch.float64))


def test_max_rl_weighs_a_hard_prompt_more():
    hard, easy = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[1.0, 1, 1, 0]])
    assert of(max_rl(epsilon=1e-6), hard).max() == pytest.approx(3, abs=1e-4)  # (1 - 1/4) / (1/4)
    assert of(max_rl(epsilon=1e-6), easy).max() == pytest.approx(1 / 3, abs=1e-4)
