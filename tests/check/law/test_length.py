"""The law of length: in what it measures long completions by."""

from rlx.check.checker import LAWS, tried
from tests.check.checking import failed, subject
from tests.check.faulty import DividedByLengthTwice, LengthCountsWhatIsNotZero, Preferences, Rewards
from tests.check.sound import LengthsByTheRoot


def test_a_sum_teaches_eight_times_as_much_a_mean_as_much_and_a_root_the_root():
    numbers = [tried(LAWS["length"], subject(kind()))[0].number for kind in (Preferences, Rewards, LengthsByTheRoot)]
    assert numbers == ["8 times as much", "1 times as much", "2.8 times as much"]


def test_a_length_that_is_divided_by_twice_too_often_is_said_in_numbers():
    assert failed(DividedByLengthTwice(), "length")["length"].number == "0.016"


def test_whose_log_probability_a_token_must_not_equal_is_said():
    assert "equals the reference's" in failed(LengthCountsWhatIsNotZero(), "length")["length"].wrong
