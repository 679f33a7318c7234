"""A loss that no number of the policy's moves is told from one that is flat on purpose."""

import pytest

from rlx.check.law.constant import never_moves
from tests.check.checking import subject
from tests.check.faulty import Preferences
from tests.check.lapses import MeasuredFromItself
from tests.check.lookalikes import WithoutOutliers


def test_the_value_is_named_that_never_moves():
    found = never_moves(subject(MeasuredFromItself()))
    assert found.number == "8 of 8 rows"
    assert "is 0.6931 whatever the policy says" in found.wrong


@pytest.mark.parametrize("kind", [Preferences, WithoutOutliers])
def test_what_moves_or_is_left_out_is_no_fault(kind):
    assert never_moves(subject(kind())) is None
