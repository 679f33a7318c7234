"""Two advantages on rewards: the same, by a factor, or another one, with the smallest group that shows it."""

import pytest

import rlx
from rlx.check.same_as.formula import compare_advantages
from rlx.errors import ConfigError
from rlx.loss import completion_advantage
from rlx.loss.advantage.completion import group_standardized, leave_one_out
from rlx.loss.advantage.token import Gae


@completion_advantage
def by_hand(rewards):
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


@completion_advantage
def population(rewards):
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, correction=0, keepdim=True) + 1e-6)


def test_the_same_advantage_in_other_words():
    assert compare_advantages(by_hand(), leave_one_out(), name="leave_one_out").same


def test_another_deviation_shows_on_two_rewards():
    found = compare_advantages(population(), group_standardized(), name="group_standardized")
    assert not found.same
    assert found.example == "rewards [[0.0, 0.5]]"
    assert "[[-0.7071, 0.7071]]" in found.first


def test_advantages_of_tokens_are_held_against_each_other_and_not_against_those_of_completions():
    gae = rlx.load("algorithm", "ppo").advantage
    assert isinstance(gae, Gae)
    assert compare_advantages(gae, gae, name="gae").same
    with pytest.raises(ConfigError, match="advantage of completions and the other one of tokens"):
        compare_advantages(gae, leave_one_out(), name="leave_one_out")
