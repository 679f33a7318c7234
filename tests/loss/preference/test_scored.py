from dataclasses import replace

import pytest
import torch

from rlx.loss.preference.margin import dpo
from rlx.loss.preference.scored import bernoulli_kl, odpo, rpo_backward_kl
from tests.loss.catalogue import golden_pairs, load

MARGIN = torch.linspace(-6, 6, 7, dtype=torch.float64)


def test_odpo_without_an_offset_is_dpo():
    torch.testing.assert_close(
        odpo.formula(MARGIN, torch.full_like(MARGIN, 2), beta=0.3, offset_scale=0), dpo.formula(MARGIN, beta=0.3)
    )


def test_odpo_asks_for_a_margin_of_the_log_of_the_gap():
    gap = torch.tensor([1.0, 4.0], dtype=torch.float64)
    margin = torch.tensor([1.5, 1.5], dtype=torch.float64)
    expected = dpo.formula(margin - gap.log() / 0.5, beta=0.5)
    torch.testing.assert_close(odpo.formula(margin, gap, beta=0.5, offset_scale=1), expected)


def test_odpo_counts_a_tie_as_the_smallest_gap():
    policy, reference = golden_pairs()
    loss = load("odpo", smallest_gap=0.25)
    tie, small = (replace(policy, scores=torch.tensor([[gap, 0.0]] * 3, dtype=torch.float64)) for gap in (-1.0, 0.25))
    torch.testing.assert_close(loss(tie, reference), loss(small, reference))


def test_the_kl_of_two_coins():
    first, second = torch.sigmoid(MARGIN), torch.tensor(0.3, dtype=torch.float64)
    expected = first * (first / second).log() + (1 - first) * ((1 - first) / (1 - second)).log()
    torch.testing.assert_close(bernoulli_kl(MARGIN, torch.logit(second).expand_as(MARGIN)), expected)


@pytest.mark.parametrize("name", ["rpo_squared", "rpo_backward_kl", "rpo_forward_kl"])
def test_rpo_rests_where_the_implicit_rewards_differ_as_the_scores_do(name):
    policy, reference = golden_pairs()
    margin = policy.chosen_sum - policy.rejected_sum - reference.chosen_sum + reference.rejected_sum
    scores = torch.stack([0.1 * margin / 2, torch.zeros(3, dtype=torch.float64)], dim=1)
    chosen = policy.chosen.clone().requires_grad_()
    values = load(name, beta=0.1, score_scale=2.0)(replace(policy, chosen=chosen, scores=scores), reference)
    assert values.abs().max().item() < 1e-12
    assert torch.autograd.grad(values.sum(), chosen)[0].abs().max().item() < 1e-9


def test_the_backward_kl_has_the_gradient_of_dpo_with_soft_labels():
    margin = MARGIN.clone().requires_grad_()
    gap, label = torch.full_like(MARGIN, 0.8), torch.sigmoid(torch.tensor(0.8, dtype=torch.float64))
    soft = label * dpo.formula(margin, beta=0.3) + (1 - label) * dpo.formula(-margin, beta=0.3)
    kl = rpo_backward_kl.formula(margin, gap, beta=0.3, score_scale=1.0)
    torch.testing.assert_close(*(torch.autograd.grad(values.sum(), margin) for values in (kl, soft)))
