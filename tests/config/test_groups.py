"""A class of the user's own is an option of every group, nested or not; nothing but an entry in the table makes a group."""

import pytest

from rlx.cli.main import invoke
from rlx.config.compose import groups, option_node
from rlx.config.groups import GROUPS, RUN_GROUPS
from rlx.config.schema import RunConfig, conf_dir
from rlx.config.targets import fits_group, locate

# group -> a class of rlx's that one's own derives from, and what the whole choice of one's own is
PARENTS = {
    "loss": "rlx.loss.preference.base.PreferenceLoss",
    "algorithm": "rlx.algorithm.sft.Sft",
    "algorithm/regularizer": "rlx.algorithm.regularizer.Regularizer",
    "algorithm/advantage": "rlx.loss.advantage.completion.Advantage",
    "algorithm/value_loss": "rlx.loss.value.ValueLoss",
    "algorithm/combine": "rlx.algorithm.combine.Sum",
    "task": "rlx.task.arithmetic.Arithmetic",
    "task/reward": "rlx.task.reward.base.Reward",
    "task/environment": "rlx.task.guess.Guess",
    "task/tool": "rlx.task.tool.base.Tool",
    "policy": "rlx.policy.base.Policy",
    "policy/adapter": "rlx.policy.adapter.Lora",
    "optimizer": "torch.optim.SGD",
    "scheduler": "rlx.optimizer.schedule.Constant",
    "rollout": "rlx.rollout.transformers.TransformersSampler",
    "logger": "rlx.record.logger.base.Logger",
}


def test_every_group_of_classes_in_conf_is_in_the_table():
    has_targets = {
        group
        for group, options in groups([conf_dir()]).items()
        if any("_target_" in option_node(group, option, [conf_dir()]) for option in options)
    }
    assert has_targets == set(GROUPS) == set(PARENTS)
    assert set(RUN_GROUPS) < set(RunConfig.__dataclass_fields__)


@pytest.mark.parametrize("name", GROUPS)
def test_every_option_of_rlx_fits_its_group(name):
    for option in groups([conf_dir()])[name]:
        target = option_node(name, option, [conf_dir()]).get("_target_")
        assert target is None or fits_group(locate(target, name), name), option


@pytest.mark.parametrize("name", GROUPS)
def test_a_class_of_ones_own_is_an_option(name, tmp_path, monkeypatch, capsys):
    group, module = GROUPS[name], f"own_{name.replace('/', '_')}_lab"
    above, _, parent = PARENTS[name].rpartition(".")
    text = f"from dataclasses import dataclass\nfrom {above} import {parent}\n"
    if name == "policy":
        text += "def Mine(size: int = 3) -> Policy:\n    raise RuntimeError\n"
    elif name == "optimizer":
        text += "class Mine(SGD):\n    pass\n"
    else:
        text += f"@dataclass(frozen=True, kw_only=True)\nclass Mine({parent}):\n    size: int = 3\n"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    host = [f"{group.above}={group.host}"] if group.above else []
    chosen = f"{module}.Mine"
    choice = f"{name}=[{chosen}]" if group.several else f"{name}={chosen}"
    place = group.place.format("Mine" if name in ("task/reward", "task/tool") else "mine")
    assert invoke(["train", *host, choice, "--cfg", "job", "--package", place]) == (0, "")
    assert f"_target_: {chosen}" in capsys.readouterr().out
