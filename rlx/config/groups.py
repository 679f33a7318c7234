"""The table of groups: what an option of each group is, where its node is in a config, and where `rlx info` shows it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlx.fields import Range


@dataclass(frozen=True)
class Group:
    """A group from which options (YAML files below conf/) or the user's own classes are chosen.

    name: as typed (`algorithm/advantage`). base: the classes from one of which an option must derive, or that its function
    is annotated to return. place: where an option's node is in a run's config; {} stands for the option's name.
    host: an option of the parent group that has this group, for `rlx info algorithm/advantage=gae`. several: whether several
    options can be chosen at once. wrapper: the class that turns a function into an option. without: what applies if nothing is
    chosen. decorators: those of rlx that turn a function into an option, each with the class whose fields its options have.
    ranges: of arguments of classes outside rlx, which declare none.
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
    def takes_functions(self) -> bool:
        """Whether a user's function can be an option."""
        return bool(self.decorators or self.wrapper)

    @property
    def above(self) -> str:
        """The group that contains this one; empty at the top level of a run's config."""
        return self.name.rpartition("/")[0]

    @property
    def leaf(self) -> str:
        """The last part of the group's name."""
        return self.name.rpartition("/")[2]


_OF_OPTIMIZERS = {
    **dict.fromkeys(("lr", "eps", "weight_decay"), Range(at_least=0)),
    "momentum": Range(at_least=0, below=1, advice="it is the share of the last update that is kept; 0.9 is usual"),
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
# the groups that are keys at the top level of a run's config
RUN_GROUPS = tuple(name for name, group in GROUPS.items() if not group.above)


# Options that are functions of rlx: `loss=ipo` is the decorated function ipo and needs no YAML file.


_ROOT = Path(__file__).parents[1]
_VALUE = {"within", "one_of", "field", "non_empty"}  # calls that give a dataclass field its default


@functools.cache
def declared(group: str) -> dict[str, str]:
    """Option -> dotted name of each function of rlx that a decorator makes an option of the group; empty for most groups."""
    decorators = GROUPS[group].decorators if group in GROUPS else {}
    if not decorators:
        return {}
    function = re.compile(rf"^@(?:{'|'.join(decorators)})\b(?:(?!^def ).)*?^def (\w+)\(", re.MULTILINE | re.DOTALL)
    rooms = sorted({_file(base.rpartition(".")[0]).parent for base in decorators.values()})
    files = [file for room in rooms for file in sorted(room.glob("*.py"))]
    return {name: f"{_module(file)}.{name}" for file in files for name in function.findall(file.read_text(encoding="utf-8"))}


@functools.cache
def declared_node(group: str, option: str) -> dict[str, Any]:
    """The node of such an option: the function's keyword arguments, then the fields that its decorator adds, with defaults."""
    target = declared(group)[option]
    module, _, name = target.rpartition(".")
    function = next(item for item in tree_of(module).body if isinstance(item, ast.FunctionDef) and item.name == name)
    node = {"_target_": target, **_own(function, module)}
    decorator = next(item for item in function.decorator_list if _called(item) in GROUPS[group].decorators)
    given = {item.arg: item.value for item in decorator.keywords} if isinstance(decorator, ast.Call) else {}
    for key, value, place in _fields(GROUPS[group].decorators[_called(decorator)]):
        node[key] = _value(given[key], module) if key in given else _value(value, place)
    return node


def _own(function: ast.FunctionDef, module: str) -> dict[str, Any]:
    """The keyword arguments of a function with their defaults."""
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {item.arg: "???" if default is None else _value(default, module) for item, default in pairs}


def _fields(base: str) -> Iterator[tuple[str, ast.expr, str]]:
    """(field, its default, module) of a dataclass from which a decorator derives its classes."""
    module, _, name = base.rpartition(".")
    kind = next(item for item in tree_of(module).body if isinstance(item, ast.ClassDef) and item.name == name)
    for item in kind.body:
        if isinstance(item, ast.AnnAssign) and item.value is not None and not ast.unparse(item.annotation).startswith("ClassVar"):
            yield ast.unparse(item.target), item.value, module


def _value(written: ast.expr, module: str) -> Any:
    """A default as a YAML value: a literal, the default in `within(default=...)` or `field(default_factory=...)`, or a node."""
    if isinstance(written, ast.Call) and _called(written) in _VALUE:
        given = {item.arg: item.value for item in written.keywords}
        if "default" in given:
            return _value(given["default"], module)
        made = given["default_factory"]
        return {} if ast.unparse(made) == "dict" else _node(ast.unparse(made), module)
    if isinstance(written, ast.Call):
        return _node(_called(written), module)
    found = ast.literal_eval(written)
    return list(found) if isinstance(found, tuple) else found


def _node(name: str, module: str) -> dict[str, Any]:
    """The node of a function that a module defines or imports, such as `token_mean`."""
    for item in tree_of(module).body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return {"_target_": f"{module}.{name}", **_own(item, module)}
        if isinstance(item, ast.ImportFrom) and item.module and name in [alias.name for alias in item.names]:
            return _node(name, item.module)
    raise LookupError(f"{module} neither defines nor imports {name}")


def _called(written: ast.expr) -> str:
    """The name of a decorator or call, without its arguments."""
    return ast.unparse(written.func if isinstance(written, ast.Call) else written)


@functools.cache
def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module of rlx that is a file."""
    return ast.parse(_file(module).read_text(encoding="utf-8"))


def _file(module: str) -> Path:
    return _ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _module(file: Path) -> str:
    return ".".join(("rlx", *file.relative_to(_ROOT).with_suffix("").parts))
