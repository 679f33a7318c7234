import math

import pytest

from rlx.comparison.serializable import is_number, is_usable, number_or, usable, usable_or_none


@pytest.mark.parametrize("value", [True, "1", None, [1], 2**62, 1j])
def test_what_is_no_number(value):
    assert not is_number(value)
    assert number_or(value, 7) == 7
    assert usable_or_none(value) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e100])
def test_numbers_that_one_cannot_reckon_with(value):
    assert is_number(value)
    assert not is_usable(value)
    assert math.isnan(usable(value))
    assert usable_or_none(value) is None


@pytest.mark.parametrize("value", [0, -3, 0.25, 9e99])
def test_the_others_stay_as_they_are(value):
    assert is_number(value)
    assert usable(value) == number_or(value, 7) == usable_or_none(value) == value
