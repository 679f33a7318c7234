"""Every class that a shipped YAML has ever named is found under the name that the same YAML gives it now."""

import json
from pathlib import Path

import pytest

from rlx.config.compose import option_node
from rlx.config.schema import conf_dir
from rlx.record.run import current_target, with_current_targets

BEFORE = json.loads((Path(__file__).parent / "before" / "targets.json").read_text())


@pytest.mark.parametrize("target", BEFORE)
def test_a_class_of_before_has_its_name_of_now(target):
    option, *path = BEFORE[target].split(":")
    node = option_node(*option.rsplit("/", 1), [conf_dir()])
    for key in path:
        node = node[int(key) if isinstance(node, list) else key]
    assert current_target(target) == node["_target_"]
    assert current_target(current_target(target)) == current_target(target)


def test_other_names_stay():
    for target in ("my_lab.Dpo", "torch.optim.AdamW", "rlx.loss.preference.margin.dpo", "rlx.loss.weight.token_mean", "Bare"):
        assert current_target(target) == target


def test_every_node_of_a_config_is_renamed():
    config = {
        "loss": {"_target_": "rlx.loss.preference_target.Ipo", "beta": 0.1},
        "list": [{"_target_": "rlx.task.reward_text.A"}],
    }
    assert with_current_targets(config) == {
        "loss": {"_target_": "rlx.loss.preference.margin.ipo", "beta": 0.1},
        "list": [{"_target_": "rlx.task.reward.text.A"}],
    }
