import pytest
import torch

from rlx.loss.policy_gradient.sequence import gmpo, vespo
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
LOG_RATIO = G["token_logprobs"] - G["sampling_logprobs"]
LENGTHS = MASK.sum(dim=1)


def test_gspo_has_one_value_a_sequence_the_clipped_geometric_mean():
    ratio, advantages = (LOG_RATIO.sum(dim=1) / LENGTHS).exp(), G["advantages"]
    expected = -torch.minimum(ratio * advantages, ratio.clamp(0.9, 1.1) * advantages)
    values = load("gspo", clip_low=0.1, clip_high=0.1)(**G)
    torch.testing.assert_close(values, torch.where(MASK, expected[:, None], 0.0))


def test_luspo_is_gspo_times_length():
    gspo, luspo = load("gspo"), load("luspo")
    values = gspo(**G)
    torch.testing.assert_close((luspo.weights(MASK) * luspo(**G)).sum(), (values[:, 0] * LENGTHS).mean())


def test_gmpo_clips_each_token_in_log_space_before_the_mean():
    log_ratio = torch.tensor([[-0.9, 0.9, 0.1]] * 2, dtype=torch.float64)
    advantages = torch.tensor([[1.0], [-1.0]], dtype=torch.float64).expand(2, 3)
    values = gmpo.formula(log_ratio, advantages, torch.ones(2, 3).bool(), clip_low=0.4, clip_high=0.4)
    clipped = torch.tensor([[-0.9, 0.4, 0.1], [-0.4, 0.9, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(values, -advantages * clipped.mean(dim=1, keepdim=True).exp())


def test_gmpo_is_the_geometric_mean_of_the_clipped_ratios():
    kept = torch.where(G["advantages"][:, None] > 0, LOG_RATIO.clamp(max=0.4), LOG_RATIO.clamp(min=-0.4))
    expected = -G["advantages"] * (torch.where(MASK, kept, 0.0).sum(dim=1) / LENGTHS).exp()
    torch.testing.assert_close(load("gmpo")(**G)[:, 0], expected)


def test_the_bump_of_vespo_is_one_at_one_and_highest_at_k_over_lambda():
    ratios = torch.tensor([1.0, 2 / 3 - 0.01, 2 / 3, 2 / 3 + 0.01], dtype=torch.float64)
    one = torch.ones_like(ratios)
    weights = -vespo.formula(one, ratios.log(), one, shape_positive=2.0, rate_positive=3.0)
    assert weights[0].item() == pytest.approx(1)
    assert weights.argmax() == 2


def test_vespo_weighs_reinforce_by_the_whole_sequences_ratio_and_by_the_sign_of_the_advantage():
    loss = load("vespo")
    sums = LOG_RATIO.sum(dim=1)
    for row, (shape, rate) in enumerate([(2, 3), (3, 2), (2, 3), (3, 2)]):
        weight = torch.exp(rate + shape * sums[row] - rate * sums[row].exp())
        expected = -weight * G["advantages"][row] * G["token_logprobs"][row]
        torch.testing.assert_close(loss(**G)[row], torch.where(MASK[row], expected, 0.0))
