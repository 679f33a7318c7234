import pytest
import torch

from rlx.loss.policy_gradient.modifier import high_entropy_tokens
from tests.loss.catalogue import golden_rollouts, load

G = golden_rollouts()
MASK = G["completion_mask"]
ENTROPY = torch.rand(MASK.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 1.0])
def test_the_threshold_is_the_quantile_over_the_tokens_of_the_batch(share):
    chosen = high_entropy_tokens(ENTROPY, MASK, share=share)
    assert torch.equal(chosen, MASK & (torch.quantile(ENTROPY[MASK], 1 - share) <= ENTROPY))


def test_all_tokens_where_all_are_equally_certain_and_none_where_there_are_none():
    assert torch.equal(high_entropy_tokens(torch.ones(MASK.shape), MASK, share=0.2), MASK)
    assert not high_entropy_tokens(ENTROPY, torch.zeros_like(MASK), share=0.2).any()


def test_the_bonus_is_added_with_its_gradient():
    entropy = ENTROPY.clone().requires_grad_()
    loss = load("clipped_entropy_bonus", modifiers={"entropy": {"coefficient": 0.3}})
    values = loss(**G, entropy=entropy)
    torch.testing.assert_close(values, load("clipped")(**G) - 0.3 * torch.where(MASK, ENTROPY, 0.0))
    (gradient,) = torch.autograd.grad(values.sum(), entropy)
    torch.testing.assert_close(gradient, torch.where(MASK, -0.3, 0.0).double())


def test_a_bonus_is_not_scaled_by_a_selection_beside_it():
    node = {"_target_": "rlx.loss.policy_gradient.modifier.EntropyBonus", "coefficient": 0.3}
    both = load("clipped_high_entropy", modifiers={"bonus": node})
    alone = load("clipped_high_entropy")(**G, entropy=ENTROPY)
    torch.testing.assert_close(both(**G, entropy=ENTROPY), alone - 0.3 * torch.where(MASK, ENTROPY, 0.0))


def test_selection_couples_rows_and_keeps_the_weights():
    loss = load("clipped_high_entropy")
    assert loss.couples_rows is True
    torch.testing.assert_close(loss.weights(MASK), load("clipped").weights(MASK))
