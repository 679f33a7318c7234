"""Parts of a draw and the rows in it, by place."""

import pytest

from rlx.check.law.minibatch import group_stands_twice, rows_come_unevenly
from tests.check.checking import subject
from tests.check.lapses import (
    AddsBeforeItSamples,
    AtRandomWithReplacement,
    InParts,
    LastPartIsLost,
    PartsOverlap,
    RemainderIsDropped,
    SamplesBeforeItAdds,
)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (PartsOverlap, "3 of 8 rows of a draw are taken 2 times by its 4 updates, others 1 times"),
        (LastPartIsLost, "2 of 8 rows of a draw reach none of its 3 updates"),
    ],
)
def test_places_that_come_too_often_or_never_are_counted(kind, said):
    assert said in rows_come_unevenly(subject(kind())).wrong


@pytest.mark.parametrize("kind", [InParts, RemainderIsDropped, AtRandomWithReplacement])
def test_a_remainder_and_chance_are_no_fault(kind):
    assert rows_come_unevenly(subject(kind())) is None


def test_what_is_fresh_stands_once():
    assert group_stands_twice(subject(SamplesBeforeItAdds())) is None
    assert "each of the 4 groups" in group_stands_twice(subject(AddsBeforeItSamples())).wrong
