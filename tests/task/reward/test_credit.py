import numpy as np
import pytest
import torch

from rlx.errors import TrainingError
from rlx.task.base import Earned, Prompt
from rlx.task.reward.credit import Span, earned_of
from tests.task.rewarding import letters

TURNS = ("abc", "de")


def test_a_number_is_earned_at_the_end():
    assert earned_of(2, TURNS) == (Earned(2.0, 1),)


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
def test_numbers_are_earned_turn_by_turn(form):
    assert earned_of(form([1, -0.5]), TURNS) == (Earned(1.0, 0), Earned(-0.5, 1))
    assert earned_of(form([2.0]), TURNS[:1]) == (Earned(2.0, 0),)


def test_how_many_turns_there_are_is_said_where_numbers_do_not_fit():
    task = letters(rewards={"each": lambda prompt, completion: [2.0, 1.0]})
    with pytest.raises(TrainingError, match=r"reward each gave \[2.0, 1.0\], not .* one for each turn \(of which there are 3\)"):
        task.grade_all([Prompt("x", {"turns": ("a", "b", "y")})], ["y"])


def test_spans_are_earned_where_they_end():
    found = earned_of([Span(1.0, 0, 2, turn=0), Span(2.0, 1, 2)], TURNS)
    assert found == (Earned(1.0, 0, 2), Earned(2.0, 1, 2))


@pytest.mark.parametrize(
    "value",
    [None, "1", float("nan"), [1.0], [1.0, 2.0, 3.0], [1.0, None], [], [Span(1.0, 0, 9, turn=0)], [Span(1.0, 2, 1)],
     [Span(float("inf"), 0, 1)], [Span(1.0, 0, 1, turn=2)], [Span(1.0, 0, 1), 2.0],
     np.zeros(3), np.zeros((2, 1)), np.array([1.0, np.nan])],
)  # fmt: skip
def test_anything_else_is_no_reward(value):
    assert earned_of(value, TURNS) is None


def test_rewards_of_turns_are_weighed_and_add_up():
    task = letters(rewards={"each": lambda prompt, completion: [2.0], "all": lambda prompt, completion: 3.0})
    graded = task.grade_all([Prompt("x")], ["y"])[0]
    assert graded.parts == {"reward": 5.0, "each": 2.0, "all": 3.0}
    assert sum(piece.value for piece in graded.earned) == 5.0
