"""The groups of choices, one entry each: what an option of a group is, where its node stands, and what `rlx info` shows it in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rlx.fields import Range


@dataclass(frozen=True)
class Group:
    """A group of which options (YAML files below conf/) or classes of the user's own are chosen.

    name: as it is typed (`algorithm/advantage`). base: the classes, one of which an option's class derives from, or its function
    is annotated to return. place: where the node of an option stands in a run's config, {} for the option's own name.
    host: the option of the group above that has one, for `rlx info algorithm/advantage=gae`. several: whether several are chosen
    at once. wrapper: the class that makes an option of a function. without: what there is where nothing is chosen.
    decorators: those of rlx that make an option of a function, with the class whose fields each of their options has.
    ranges: of arguments of classes that are not rlx's and state none.
    """

    name: str
    base: tuple[str, ...]
    place: str
    host: str = ""
    several: bool = False
    wrapper: str = ""
    without: str = ""
    decorators: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @property
    def above(self) -> str:
        """The group that it is nested in; empty at the top of a run's config."""
        return self.name.rpartition("/")[0]

    @property
    def leaf(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


_OF_OPTIMIZERS = {
    **dict.fromkeys(("lr", "eps", "weight_decay", "momentum"), Range(at_least=0)),
    "betas": Range(at_least=0, below=1),
    "dampening": Range(),
    "beta2_decay": Range(at_most=0),
    "d": Range(at_least=1),
    "ns_steps": Range(at_least=1, at_most=99, whole=True, advice="it counts iterations; 5 is usual"),
}
_TABLE = (
    Group(
        "loss",
        ("rlx.loss.base.Loss",),
        "loss",
        without="the algorithm's own",
        decorators={
            "preference_loss": "rlx.loss.preference.base.PreferenceLoss",
            "policy_gradient_loss": "rlx.loss.policy_gradient.base.PolicyGradientLoss",
        },
    ),
    Group("algorithm", ("rlx.algorithm.base.Algorithm",), "algorithm"),
    Group("algorithm/regularizer", ("rlx.algorithm.regularizer.Regularizer",), "algorithm.regularizer", host="custom_dpo"),
    Group(
        "algorithm/advantage",
        ("rlx.loss.advantage.completion.Advantage", "rlx.loss.advantage.token.TokenAdvantage"),
        "algorithm.advantage",
        host="custom_grpo",
        decorators={
            "completion_advantage": "rlx.loss.advantage.completion.Advantage",
            "token_advantage": "rlx.loss.advantage.token.TokenAdvantage",
        },
    ),
    Group("algorithm/value_loss", ("rlx.loss.value.ValueLoss",), "algorithm.value_loss", host="custom_grpo"),
    Group("algorithm/combine", ("rlx.algorithm.combine.Combine",), "algorithm.combine", host="hybrid"),
    Group("task", ("rlx.task.base.Task",), "task"),
    Group(
        "task/reward",
        ("rlx.task.reward.base.Reward",),
        "task.rewards.{}",
        host="arithmetic",
        several=True,
        wrapper="rlx.task.reward.base.FunctionReward",
    ),
    Group("task/environment", ("rlx.task.environment.Environment",), "task.environment", host="environment"),
    Group(
        "task/tool",
        ("rlx.task.tool.base.Tool",),
        "task.environment.tools.{}",
        host="tool_file",
        several=True,
        wrapper="rlx.task.tool.base.Tool",
    ),
    Group("policy", ("rlx.policy.base.Policy",), "policy"),
    Group("policy/adapter", ("rlx.policy.adapter.Lora",), "policy.adapter", host="tiny"),
    Group("optimizer", ("torch.optim.Optimizer",), "optimizer", ranges=_OF_OPTIMIZERS),
    Group("scheduler", ("rlx.optimizer.schedule.Schedule",), "scheduler"),
    Group("rollout", ("rlx.rollout.sampler.Sampler",), "rollout"),
    Group("logger", ("rlx.record.logger.base.Logger",), "logger.{}", several=True),
)
GROUPS = {group.name: group for group in _TABLE}
# those that are keys at the top of a run's config
RUN_GROUPS = tuple(name for name, group in GROUPS.items() if not group.above)
