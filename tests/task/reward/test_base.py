import asyncio
import functools

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from rlx.errors import ConfigError, DataError, TrainingError
from rlx.task.base import Earned, Prompt
from rlx.task.reward.base import FunctionReward, Span, earned_of
from tests.task.rewarding import Count, Told, letters


def brevity(prompt, completion, **columns):
    return -len(completion) * columns.get("scale", 1)


def level(prompt, completion, level):
    return level


def weighs(prompt, completion, weight):
    return weight


def test_a_function_gets_the_columns_that_it_takes():
    assert FunctionReward.of(brevity)("p", "abc", scale=2, answer="x") == -6
    assert FunctionReward.of(level)("p", "abc", level=7, answer="x") == 7


def test_a_column_that_a_function_needs_and_nobody_has_is_named():
    with pytest.raises(
        DataError, match="level needs the column level, and the task's prompts have answer; a parameter is called as its column"
    ):
        FunctionReward.of(level)("p", "abc", answer="x")


def test_what_is_bound_beside_the_target_wins_over_columns():
    assert FunctionReward.of(functools.partial(level, level=3))("p", "abc", level=7) == 3


def test_a_bound_weight_is_the_rewards_unless_the_function_takes_one():
    assert FunctionReward.of(functools.partial(brevity, weight=0.5)).weight == 0.5
    own = FunctionReward.of(functools.partial(weighs, weight=0.5))
    assert (own.weight, own("p", "c")) == (1.0, 0.5)


def test_a_function_from_a_config_is_called_without_hydra_in_between():
    node = {"_target_": "rlx.task.reward.base.FunctionReward", "weight": 1.0}
    reward = instantiate({**node, "function": {"_target_": f"{__name__}.brevity", "_partial_": True}})
    assert type(reward.function) is functools.partial
    assert reward("p", "abc", scale=2) == -6


def test_an_exception_stands_in_the_place_of_its_value_and_an_error_of_rlx_does_not():
    error = ZeroDivisionError("x")
    assert Told(weight=1.0, outcome=error).score_all([(Prompt("p"), "c")]) == [error]
    with pytest.raises(DataError):
        Told(weight=1.0, outcome=DataError("mend the file")).score_all([(Prompt("p"), "c")])


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_finite(weight):
    with pytest.raises(ConfigError, match="weight"):
        Count(weight=weight, letter="a")


def test_what_nobody_knows_has_no_largest_value():
    assert Count(weight=1.0, letter="a").largest is None


def test_async_rewards_of_a_batch_run_at_the_same_time():
    running, most = 0, 0

    async def slow(prompt, completion):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        if completion == "bad":
            raise ValueError("no")
        return len(completion)

    first, bad, last = FunctionReward.of(slow).score_all([(Prompt("p"), text) for text in ("a", "bad", "abc")])
    assert (first, last, most) == (1, 3, 3)
    assert isinstance(bad, ValueError)


def test_an_error_of_rlx_in_an_async_reward_ends_the_run():
    async def wrong(prompt, completion):
        raise DataError("mend the file")

    with pytest.raises(DataError, match="mend the file"):
        FunctionReward.of(wrong).score_all([(Prompt("p"), "a")])


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
