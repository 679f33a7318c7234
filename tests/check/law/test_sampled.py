"""Rewards beside completions: those of others are told from those that go along."""

from rlx.check.law.sampled import rewards_of_others
from tests.check.checking import subject
from tests.check.confusions import RewardsGoAlong, RewardsOfOthers


def test_rewards_that_stay_where_they_are_belong_to_other_completions():
    assert rewards_of_others(subject(RewardsGoAlong())) is None
    found = rewards_of_others(subject(RewardsOfOthers()))
    assert found.where == "draw"
    given, own = found.wrong.partition(": ")[2].split(" for what it rewards with ")
    assert given != own
    assert sorted(given.split(", ")) == sorted(own.split(", "))
