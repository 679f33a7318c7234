from dataclasses import replace

import pytest
import torch

from rlx.errors import ShapeError
from rlx.loss.preference.batch import aot, prospect
from tests.loss.catalogue import golden_pairs, load

POLICY, REFERENCE = golden_pairs()
MISMATCHED = torch.tensor([[-3.0], [-2.0], [-4.0]], dtype=torch.float64)


def log_ratios() -> tuple[torch.Tensor, torch.Tensor]:
    return POLICY.chosen_sum - REFERENCE.chosen_sum, POLICY.rejected_sum - REFERENCE.rejected_sum


def test_aot_compares_quantiles_whatever_the_order_of_the_rows():
    upper, lower = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.5, 2.5, 1.5])
    values = aot.formula(upper, lower, beta=1.0, label_smoothing=0.0)
    torch.testing.assert_close(values, torch.nn.functional.softplus(-torch.full((3,), 0.5)))


def test_kto_judges_a_completion_by_its_own_label():
    log_ratio, point = torch.tensor([[1.0, 1.0]]), torch.tensor(0.4)
    good, bad = 1 - torch.sigmoid(torch.tensor(0.3)), 1 - torch.sigmoid(torch.tensor(-0.3))
    for there, expected in (([True, False], good), ([False, True], 3 * bad), ([True, True], (good + 3 * bad) / 2)):
        given = (log_ratio, point, torch.tensor([[True, False]]), torch.tensor([there]))
        torch.testing.assert_close(prospect(*given, beta=0.5, weights=(1.0, 3.0))[0], expected)


def test_the_reference_point_of_kto_is_the_drift_on_mismatched_completions_and_never_negative():
    (a, b), point = log_ratios(), 0.5
    for shift, expected in ((point, point), (-point, 0.0)):
        policy, reference = replace(POLICY, mismatched=MISMATCHED + shift), replace(REFERENCE, mismatched=MISMATCHED)
        sides = 1 - torch.sigmoid(0.1 * (a - expected)), 1 - torch.sigmoid(0.1 * (expected - b))
        torch.testing.assert_close(load("kto")(policy, reference), (sides[0] + sides[1]) / 2)


def test_kto_without_mismatched_completions_says_what_is_missing():
    with pytest.raises(ShapeError, match="kto needs mismatched"):
        load("kto")(POLICY, REFERENCE)


def test_labels_decide_and_absent_completions_count_for_nothing():
    label = torch.tensor([[False, False], [True, True], [True, False]])
    there = torch.tensor([[True, False], [False, True], [False, False]])
    policy = replace(POLICY, mismatched=MISMATCHED, label=label, has_label=there)
    values = load("kto", undesirable_weight=2.0)(policy, replace(REFERENCE, mismatched=MISMATCHED))
    a, b = log_ratios()
    expected = [2 * (1 - torch.sigmoid(-0.1 * a[0])), 1 - torch.sigmoid(0.1 * b[1]), torch.zeros((), dtype=torch.float64)]
    torch.testing.assert_close(values, torch.stack(expected))


def test_kto_pair_takes_its_reference_point_from_the_other_side():
    a, b = log_ratios()
    good, bad = 1 - torch.sigmoid(0.1 * (a - b.mean().clamp(min=0))), 1 - torch.sigmoid(0.1 * (a.mean().clamp(min=0) - b))
    torch.testing.assert_close(load("kto_pair")(POLICY, REFERENCE), (good + bad) / 2)


def test_the_reference_point_of_kto_is_constant():
    """dL/dc_i = -β σ' / 2 of the pair itself: nothing comes through the mean of the other side."""
    leaf = (POLICY.chosen + POLICY.chosen_mask).requires_grad_()  # so likely that the mean of the other side's point is above 0
    policy = replace(POLICY, chosen=leaf)
    (found,) = torch.autograd.grad(load("kto_pair")(policy, REFERENCE).sum(), leaf)
    a = policy.chosen_sum - REFERENCE.chosen_sum
    slope = torch.sigmoid(0.1 * (a - log_ratios()[1].mean().clamp(min=0)))
    torch.testing.assert_close(found, (-0.1 * slope * (1 - slope) / 2).detach()[:, None] * POLICY.chosen_mask)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired", "kto", "kto_pair"])
def test_they_say_that_they_couple_rows(name):
    assert load(name).couples_rows is True
