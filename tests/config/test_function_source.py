"""A function is a reward: which dotted names are served as one, and as what node."""

import math

from rlx.config.sources import function_node, is_function, package_of


def test_a_plain_function_is_a_reward_and_a_class_is_not():
    assert is_function(math.isclose, "task/reward")
    assert not is_function(dict, "task/reward")
    assert not is_function(3.0, "task/reward")


def test_a_function_is_nothing_in_other_groups():
    assert not is_function(math.isclose, "loss")


def test_its_node_binds_it_and_lies_under_its_own_name():
    node = function_node("my_lab.brevity", "task/reward")
    assert node["function"] == {"_target_": "my_lab.brevity", "_partial_": True}
    assert node["weight"] == 1.0
    assert package_of("my_lab.rewards.brevity", "task/reward") == "task.rewards.brevity"
    assert package_of("my_lab.FileLogger", "logger") == "logger.file"
    assert package_of("my_lab.MyLoss", "loss") is None
