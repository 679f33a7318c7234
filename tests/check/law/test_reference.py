"""Laws of the reference accuse no shipped preference loss."""

import pytest

from tests.check.checking import failed, with_loss
from tests.loss.catalogue import PREFERENCE, load

NEEDS_SCORES = {name for name in PREFERENCE if "scores" in load(name).requires}  # which pairs of sums do not have


@pytest.mark.parametrize("name", sorted(set(PREFERENCE) - NEEDS_SCORES))
def test_no_shipped_loss_is_accused(name):
    assert failed(with_loss(load(name)), "reference", "anchor") == {}
