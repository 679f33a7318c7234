import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.advantage.completion import Gpg, GroupCentered, MaxRl, Opo, PassAtK, ReMax
from tests.loss.advantage.test_completion import LENGTHS, REWARDS, of


def test_remax_takes_one_completion_and_needs_the_greedy_reward():
    greedy = torch.tensor([0.5, 0.1], dtype=torch.float64)
    found = ReMax()(REWARDS[:, :1], greedy_rewards=greedy)
    assert found.flatten().tolist() == pytest.approx([0.5, 0.1])
    with pytest.raises(ShapeError, match="ReMax needs greedy_rewards"):
        ReMax()(REWARDS)


def test_opo_makes_the_advantages_weighed_by_length_sum_to_zero():
    torch.testing.assert_close((of(Opo()) * LENGTHS).sum(dim=1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(of(Opo())[1], of(GroupCentered())[1])


def test_gpg_makes_up_for_groups_without_signal():
    half = torch.stack([torch.ones(4, dtype=torch.float64), REWARDS[1]])
    torch.testing.assert_close(of(Gpg(divisor=1.0), half), 2 * of(GroupCentered(), half))


def test_pass_at_k_gives_the_best_its_lead_and_the_others_nothing():
    torch.testing.assert_close(of(PassAtK()), torch.tensor([[0.5, 0, 0, 0], [0, 0.5, 0, 0]], dtype=torch.float64))


def test_max_rl_weighs_a_hard_prompt_more():
    hard, easy = torch.tensor([[1.0, 0, 0, 0]]), torch.tensor([[1.0, 1, 1, 0]])
    assert of(MaxRl(epsilon=1e-6), hard).max() == pytest.approx(3, abs=1e-4)  # (1 - 1/4) / (1/4)
    assert of(MaxRl(epsilon=1e-6), easy).max() == pytest.approx(1 / 3, abs=1e-4)
