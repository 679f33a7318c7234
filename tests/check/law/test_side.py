"""Numbers that are named after a side: what they are called on the other one, and that they act on their own."""

import pytest

from rlx.check.law.side import opposite, sides_exchanged
from tests.check.checking import subject
from tests.check.confusions import LabelledSides, LabelWeightsAreExchanged


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("chosen", "rejected"),
        ("loss.desirable_weight", "loss.undesirable_weight"),
        ("undesirable_weight", None),
        ("winning_share", "losing_share"),
        ("clip_low", None),
        ("window", None),
    ],
)
def test_the_name_of_the_other_side(name, other):
    assert opposite(name) == other


def test_an_exchange_is_told_with_both_names():
    assert sides_exchanged(subject(LabelledSides())) is None
    wrong = sides_exchanged(subject(LabelWeightsAreExchanged())).wrong
    assert wrong.startswith("desirable_weight ")
    assert "undesirable_weight changes only the other one" in wrong
