"""The law of draws, of a replay buffer: what is said of old completions."""

from tests.check.checking import failed
from tests.check.lookalikes import ImitatesOldOnes
from tests.check.oversights import ReplaySaidAnew, ReplayWithoutWeights


def test_the_first_draw_in_which_they_come_again_is_named():
    found = failed(ReplaySaidAnew(), "draws")["draws"]
    assert "comes again at step 1" in found.wrong
    assert "draw" in found.where


def test_groups_without_a_weight_are_counted():
    found = failed(ReplayWithoutWeights(), "draws")["draws"]
    assert found.wrong.startswith("4 groups of earlier draws are learned as if")
    assert failed(ImitatesOldOnes(), "draws") == {}
