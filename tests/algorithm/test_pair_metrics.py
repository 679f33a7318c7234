import pytest
import torch

from rlx.algorithm.pair_metrics import pair_metrics
from rlx.loss.pairs import PairLogprobs


def test_the_figures_of_three_pairs():
    mask = torch.ones(3, 2, dtype=torch.bool)
    policy = PairLogprobs(torch.full((3, 2), -1.0), torch.full((3, 2), -2.0, requires_grad=True), mask, mask)
    figures = pair_metrics(policy, (torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 3.0])))
    means = {name: (total / count).item() for name, (total, count) in figures.items()}
    expected = {
        "rewards_chosen": 1.0,
        "rewards_rejected": 1.0,
        "margin": 0.0,
        "accuracy": 0.5,
        "logprobs_chosen": -2.0,
        "logprobs_rejected": -4.0,
    }
    assert means == pytest.approx(expected)
    assert not any(total.requires_grad for total, _ in figures.values())
