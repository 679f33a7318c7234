"""Each planted fault is named by its law, with a place and a mend; the sound algorithms they derive from break no law."""

import pytest

from rlx.check.checker import LAWS
from tests.check.checking import failed
from tests.check.confusions import CONFUSIONS, TWINS
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards
from tests.check.lapses import LAPSES, SPARED
from tests.check.lookalikes import LOOKALIKES
from tests.check.misreadings import FAITHFUL, MISREADINGS
from tests.check.mistakes import MISTAKES, WithReference
from tests.check.oversights import OVERSIGHTS
from tests.check.slips import SLIPS
from tests.check.unusual import UNUSUAL
from tests.check.upsets import UPRIGHT, UPSETS

pytestmark = pytest.mark.whole

PLANTED = FAULTS | MISTAKES | SLIPS | OVERSIGHTS | CONFUSIONS | LAPSES | MISREADINGS
NAMED = [*((kind, law) for kind, laws in PLANTED.items() for law in sorted(laws)), *UPSETS]
SOUND = [Demonstrations, Preferences, Rewards, WithReference, *UNUSUAL, *LOOKALIKES, *TWINS, *SPARED, *FAITHFUL]


@pytest.mark.parametrize(("kind", "law"), NAMED, ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    found = failed(kind(), law)
    assert set(found) == {law}
    assert found[law].wrong
    assert found[law].mend
    assert found[law].where


@pytest.mark.parametrize("kind", SOUND, ids=lambda kind: kind.__name__)
def test_a_sound_algorithm_breaks_no_law(kind):
    assert failed(kind()) == {}


@pytest.mark.parametrize(("kind", "law"), UPRIGHT, ids=lambda value: getattr(value, "__name__", value))
def test_what_looks_like_a_fault_to_one_law_is_none(kind, law):
    assert failed(kind(), law) == {}


def test_every_law_names_a_fault():
    by_other_tests = {"losses", "context", "turns"}  # the last two in law/test_conversation.py, which plants its own
    assert set(LAWS) - by_other_tests <= set().union(*(FAULTS | MISTAKES).values())
