"""A formula sees sequences [B, T], so that dim=1 is that of the tokens, whether they come as [B, T] or as groups [P, G, T]."""

import pytest
import torch

from rlx.loss import policy_gradient_loss, token_advantage, value_loss, weighting

P, G, T = 2, 3, 5


@policy_gradient_loss
def summed_so_far(log_ratio, advantages):
    return -log_ratio.cumsum(dim=1) * advantages


@token_advantage
def later_rewards(token_rewards, completion_mask):
    return token_rewards.flip(1).cumsum(dim=1).flip(1) * completion_mask


@value_loss
def steps_of_values(values, returns):
    return (values.diff(dim=1, prepend=values[:, :1]) - returns) ** 2


@weighting
def evenly(completion_mask):
    return completion_mask / completion_mask.sum(dim=1, keepdim=True).clamp(min=1)


@pytest.mark.parametrize(
    ("formula", "reads"), [(summed_so_far, 3), (later_rewards, 1), (steps_of_values, 2), (evenly, 0)], ids=lambda item: str(item)
)
def test_groups_are_taken_apart_for_a_formula_and_put_together_again(formula, reads):
    rng = torch.Generator().manual_seed(0)
    tensors = [torch.rand(P * G, T, generator=rng, dtype=torch.float64) for _ in range(reads)]
    mask = torch.rand(P * G, T, generator=rng) < 0.7
    flat = formula()(*tensors, mask)
    grouped = formula()(*(tensor.reshape(P, G, T) for tensor in tensors), mask.reshape(P, G, T))
    assert grouped.shape == (P, G, T)
    assert torch.equal(grouped.flatten(0, 1), flat)


def test_figures_come_as_the_tensors_do():
    mask = torch.ones(P, G, T, dtype=torch.bool)
    zeros = torch.zeros(P, G, T)
    assert {name: values.shape for name, values in summed_so_far().figures(zeros, zeros, zeros, mask).items()} == {
        "ratio_mean": (P, G, T)
    }
