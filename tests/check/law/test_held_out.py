"""Prompts that are held out decide nothing that is learned."""

from rlx.check.law.held_out import reads_held_out
from tests.check.checking import subject
from tests.check.lapses import LearnsFromItsOwn, LearnsFromWhatIsHeldOut


def test_the_prompts_of_the_score_are_told_from_those_that_are_learned():
    assert reads_held_out(subject(LearnsFromItsOwn())) is None
    assert "held_out_prompts" in reads_held_out(subject(LearnsFromWhatIsHeldOut())).wrong
