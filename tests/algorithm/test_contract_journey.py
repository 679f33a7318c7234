"""Journeys: a few steps, and in what two of them differ."""

from rlx.algorithm.contract_journey import LEARNING, NOTHING, journey
from tests.algorithm.checking import subject
from tests.algorithm.sound import SignsAlone


def test_the_same_steps_do_not_differ_and_other_values_do():
    known = subject(SignsAlone())
    first = journey(known, 0.4)
    assert first.difference(journey(known, 0.4)) == NOTHING
    assert first.difference(journey(known.with_algorithm(SignsAlone(beta=0.3)), 0.4)) == LEARNING
