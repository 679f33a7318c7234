"""Laws of steps as a whole: each planted fault is named with a number or a place and a mend."""

import pytest

from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = ("update", "draws")


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}
