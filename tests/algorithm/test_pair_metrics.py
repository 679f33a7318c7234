import pytest
import torch

from rlx.algorithm.dpo import pair_metrics
from rlx.loss.preference.base import ROUNDING
from rlx.loss.preference.pairs import PairLogprobs
from tests.loss.catalogue import load


def pairs(chosen: list[float], rejected: list[float]) -> PairLogprobs:
    """Pairs of two-token completions with these sums of log-probabilities."""
    sides = [torch.tensor(sums)[:, None].repeat(1, 2) / 2 for sums in (chosen, rejected)]
    mask = torch.ones(len(chosen), 2, dtype=torch.bool)
    return PairLogprobs(sides[0], sides[1].requires_grad_(), mask, mask)


def means(loss, policy, reference):
    return {name: (total / count).item() for name, (total, count) in pair_metrics(loss, policy, reference).items()}


def test_the_figures_of_three_pairs():
    policy, reference = pairs([-2.0, -2.0, -2.0], [-4.0, -4.0, -4.0]), pairs([-4.0, -2.0, -6.0], [-4.0, -4.0, -10.0])
    figures = means(load("dpo", beta=0.5), policy, reference)
    expected = {  # log-ratios: chosen 2, 0, 4; rejected 0, 0, 6
        "rewards_chosen": 1.0,
        "rewards_rejected": 1.0,
        "margin": 0.0,
        "accuracy": 0.5,
        "logprobs_chosen": -2.0,
        "logprobs_rejected": -4.0,
    }
    assert figures == pytest.approx(expected)
    assert not any(total.requires_grad for total, _ in pair_metrics(load("dpo"), policy, reference).values())


@pytest.mark.parametrize("name", ["dpo", "ipo_normalized", "dpo_nll"])
@pytest.mark.parametrize("beta", [0.01, 10.0])
def test_what_only_rounding_parts_is_a_tie_whatever_beta(name, beta):
    loss = load(name) if name == "dpo_nll" else load(name, beta=beta)
    reference = pairs([-3.0, -3.0], [-5.0, -5.0])
    noisy = pairs([-3.0 + ROUNDING / 4, -3.0 - ROUNDING / 4], [-5.0, -5.0])
    assert means(loss, noisy, reference)["accuracy"] == 0.5
    one_sided = pairs([-3.0 + ROUNDING / 4] * 2, [-5.0] * 2)
    assert means(loss, one_sided, reference)["accuracy"] == 0.5
    moved = pairs([-3.0 + 4 * ROUNDING] * 2, [-5.0] * 2)
    assert means(loss, moved, reference)["accuracy"] == 1.0


def test_without_a_reference_the_smallest_difference_counts():
    nearly = pairs([-3.0, -3.0], [-3.0 - 1e-5, -3.0])
    assert means(load("simpo"), nearly, None)["accuracy"] == 0.75
