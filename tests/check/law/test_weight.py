"""Weights of pairs that draw makes: those of other rows are told from those that all rows share."""

import pytest

from rlx.check.law.weight import weights_of_other_rows
from tests.check.checking import subject
from tests.check.confusions import ByReferenceMargin, RanksAsWeights, WeightsBackToFront, WeightsOfTheNextPair


@pytest.mark.parametrize(("kind", "rows"), [(WeightsOfTheNextPair, "row 1 "), (WeightsBackToFront, "row 7 ")])
def test_the_row_is_named_whose_weight_moves_in_the_place_of_another_one(kind, rows):
    found = weights_of_other_rows(subject(kind()))
    assert found.number == "8 of 8 rows"
    assert f"the preference of {rows}changes with what policy, reference or scores say of row 0" in found.wrong


@pytest.mark.parametrize("kind", [ByReferenceMargin, RanksAsWeights])
def test_a_scale_that_all_rows_share_is_none_of_theirs(kind):
    assert weights_of_other_rows(subject(kind())) is None
