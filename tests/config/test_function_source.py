"""A function is a reward: which dotted names are served as one, and as what node."""

import math

from rlx.config.sources import REWARDS, function_node, is_function, reward_package


def test_a_plain_function_is_a_reward_and_a_class_is_not():
    assert is_function(math.isclose, REWARDS)
    assert not is_function(dict, REWARDS)
    assert not is_function(3.0, REWARDS)


def test_a_function_is_nothing_in_other_groups():
    assert not is_function(math.isclose, "loss")


def test_its_node_binds_it_and_lies_under_its_own_name():
    node = function_node("my_lab.brevity")
    assert node["function"] == {"_target_": "my_lab.brevity", "_partial_": True}
    assert node["weight"] == 1.0
    assert reward_package("my_lab.rewards.brevity") == "task.rewards.brevity"
