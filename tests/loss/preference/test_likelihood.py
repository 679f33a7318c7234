import torch

from rlx.loss.preference.margin import dpo
from rlx.loss.preference.reference_free import log_odds
from tests.loss.catalogue import golden_pairs, load

POLICY, _ = golden_pairs()
LENGTHS = torch.tensor([3.0, 2.0, 2.0], dtype=torch.float64)


def test_log_odds_are_exact_over_many_orders_and_finite_at_certainty():
    mean = torch.tensor([-1e-9, -0.1, -0.7, -2.0, -30.0], dtype=torch.float64)
    torch.testing.assert_close(log_odds(mean), mean - torch.log(-torch.expm1(mean)))
    certain = torch.zeros(1, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(certain).sum(), certain)
    assert bool(torch.isfinite(log_odds(certain)).all() & torch.isfinite(gradient).all())


def test_nll_weighs_tokens_its_sequence_mean_completions_and_its_sum_lengths():
    totals = []
    for name in ("nll", "nll_sequence_mean", "nll_sequence_sum"):
        loss = load(name)
        totals.append((loss.weights(POLICY.chosen_mask) * loss(POLICY, None)).sum())
    torch.testing.assert_close(totals[0], -POLICY.chosen_sum.sum() / LENGTHS.sum())
    torch.testing.assert_close(totals[1], -(POLICY.chosen_sum / LENGTHS).mean())
    torch.testing.assert_close(totals[2], -POLICY.chosen_sum.mean())


def test_weights_may_be_asked_for_with_the_masks_of_both_completions():
    both = torch.stack([POLICY.chosen_mask, POLICY.rejected_mask], dim=1)
    torch.testing.assert_close(load("nll").weights(both), load("nll").weights(POLICY.chosen_mask))


def test_cpo_adds_its_likelihood_as_a_mean_or_a_sum():
    margin = dpo.formula(POLICY.chosen_sum - POLICY.rejected_sum, beta=0.1)
    mean, total = (
        load("cpo", nll_reduction=name, nll_coefficient=0.5)(POLICY, None) for name in ("sequence_mean", "sequence_sum")
    )
    torch.testing.assert_close(mean, margin - 0.5 * POLICY.chosen_sum / LENGTHS)
    torch.testing.assert_close(total, margin - 0.5 * POLICY.chosen_sum)


def test_orpo_without_its_odds_is_the_likelihood():
    torch.testing.assert_close(load("orpo", beta=0)(POLICY, None), -POLICY.chosen_sum / LENGTHS)


def test_slic_stops_pushing_a_pair_apart_at_its_target():
    margin = POLICY.chosen_sum - POLICY.rejected_sum
    values = load("slic", nll_coefficient=0, target_margin=2)(POLICY, None)
    torch.testing.assert_close(values, (2 - margin).clamp(min=0))
    assert bool((values == 0).any() & (values > 0).any())
