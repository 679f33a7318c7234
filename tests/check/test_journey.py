"""Journeys: a few steps, and in what two of them differ."""

from rlx.check.variant import LEARNING, NOTHING, journey
from tests.check.checking import subject
from tests.check.sound import SignsAlone


def test_the_same_steps_do_not_differ_and_other_values_do():
    known = subject(SignsAlone())
    first = journey(known, 0.4)
    assert first.difference(journey(known, 0.4)) == NOTHING
    assert first.difference(journey(known.with_algorithm(SignsAlone(beta=0.3)), 0.4)) == LEARNING
