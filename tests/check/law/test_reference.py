"""Laws of the reference accuse no shipped preference loss."""

import pytest
import torch.nn.functional as F

from rlx.loss import preference_loss
from tests.check.checking import failed, with_loss
from tests.loss.catalogue import PREFERENCE, load

NEEDS_SCORES = {name for name in PREFERENCE if "scores" in load(name).requires}  # which pairs of sums do not have


@pytest.mark.parametrize("name", sorted(set(PREFERENCE) - NEEDS_SCORES))
def test_no_shipped_loss_is_accused(name):
    assert failed(with_loss(load(name)), "reference", "anchor") == {}


@preference_loss
def takes_chosen_from_itself(policy_margin, reference, *, beta=0.1):
    return -F.logsigmoid(beta * (policy_margin - (reference.chosen_sum - reference.chosen_sum)))


def test_a_loss_whose_reference_cancels_is_named():
    found = failed(with_loss(takes_chosen_from_itself()), "reference")
    assert "neither side's log-probabilities of the reference change the loss" in found["reference"].wrong
