import math

import pytest
import torch

import rlx
from rlx.policy.reference import Reference


def test_the_loss_at_the_reference_is_log_two(lab):
    algorithm = rlx.load("algorithm", "dpo", pairs_per_step=8)
    output = algorithm.compute_loss(lab.policy, Reference(lab.policy), algorithm.draw(lab))
    assert output.loss.item() == pytest.approx(math.log(2))
    assert output.metrics["margin"][0].item() == pytest.approx(0.0, abs=1e-9)


def test_the_loss_is_the_mean_of_the_formula_over_pairs(lab):
    algorithm = rlx.load("algorithm", "dpo", pairs_per_step=8, **{"loss.beta": 0.3})
    batch = algorithm.draw(lab)
    ours, theirs = lab.policy.pair_logprobs(batch), lab.reference.pair_logprobs(batch)
    margin = (ours.chosen_sum - theirs.chosen_sum) - (ours.rejected_sum - theirs.rejected_sum)
    output = algorithm.compute_loss(lab.policy, lab.reference, batch)
    assert output.loss.item() == pytest.approx(torch.log1p(torch.exp(-0.3 * margin)).mean().item())
    total, count = output.metrics["margin"]
    assert (total / count).item() == pytest.approx(0.3 * margin.mean().item())
