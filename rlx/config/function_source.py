"""A function is a reward: `task/reward=[my_lab.brevity]` is served as a node that calls it for each completion."""

from __future__ import annotations

from typing import Any

from rlx.config.classes import fits_group

REWARDS = "task/reward"
_WRAPPER = "rlx.task.reward.FunctionReward"


def is_function(target: Any, group: str) -> bool:
    """Whether a dotted name in the group of rewards stands for a function that is itself the reward, not for what makes one."""
    return group == REWARDS and callable(target) and not isinstance(target, type) and not fits_group(target, group)


def function_node(name: str) -> dict[str, Any]:
    """The node of a reward that is a function: bound, not called, when the config is instantiated."""
    return {"_target_": _WRAPPER, "weight": 1.0, "function": {"_target_": name, "_partial_": True}}


def reward_package(name: str) -> str:
    """Where the node of a reward goes: under the function's or class's own name."""
    return f"task.rewards.{name.rpartition('.')[2]}"
