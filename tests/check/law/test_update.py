"""The law of an update says in numbers what is wrong."""

from tests.check.checking import failed
from tests.check.faulty import StepsByHand, TimesTheRows


def test_what_is_wrong_is_said_in_numbers():
    assert "an update of 8 rows moves the policy 8 times as far" in failed(TimesTheRows(), "update")["update"].wrong
    assert failed(StepsByHand(), "update")["update"].example.startswith("max_grad_norm = ")
