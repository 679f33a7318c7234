import math

import pytest

from rlx.comparison.plain import is_number, is_usable, number, optional, usable


@pytest.mark.parametrize("value", [True, "1", None, [1], 2**62, 1j])
def test_what_is_no_number(value):
    assert not is_number(value)
    assert number(value, 7) == 7
    assert optional(value) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e100])
def test_numbers_that_one_cannot_reckon_with(value):
    assert is_number(value)
    assert not is_usable(value)
    assert math.isnan(usable(value))
    assert optional(value) is None


@pytest.mark.parametrize("value", [0, -3, 0.25, 9e99])
def test_the_others_stay_as_they_are(value):
    assert is_number(value)
    assert usable(value) == number(value, 7) == optional(value) == value
