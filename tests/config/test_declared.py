"""A function of rlx under the decorator of a group is an option of it, without a YAML for its name."""

import shutil
import subprocess
import sys

import pytest

from rlx.cli.main import invoke
from rlx.config import groups as room
from rlx.config.compose import check_folders, groups
from rlx.config.groups import declared, declared_node
from rlx.config.schema import conf_dir
from rlx.config.sources import node_of
from rlx.config.targets import locate
from rlx.errors import ConfigError
from tests.config.test_line import line

OPTIONS = [(group, option) for group in ("loss", "algorithm/advantage") for option in declared(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_the_node_that_is_read_is_that_of_the_class(group, option):
    target = declared(group)[option]
    assert declared_node(group, option) == node_of(locate(target, group), target, group)
    assert not (conf_dir() / group / f"{option}.yaml").exists()


def test_most_losses_and_advantages_have_no_yaml():
    assert len(declared("loss")) > 60
    assert len(declared("algorithm/advantage")) > 15
    assert declared("task") == declared("no_group") == {}


def test_hyperparameters_come_first_and_a_weighting_of_the_decorator_counts():
    assert list(declared_node("loss", "clipped"))[:4] == ["_target_", "clip_low", "clip_high", "weighting"]
    assert declared_node("loss", "gspo")["weighting"]["_target_"] == "rlx.loss.weight.sequence_mean"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the losses of rlx that may be written to."""
    shutil.copytree(room._ROOT / "loss", tmp_path / "loss")
    monkeypatch.setattr(room, "_ROOT", tmp_path)
    caches = (room.declared, room.declared_node, room.tree_of)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()


def test_one_function_is_all_that_a_loss_takes(tree):
    with (tree / "loss" / "preference" / "margin.py").open("a") as file:
        file.write("\n\n@preference_loss(\n    per_token=False,\n)\ndef fresh(margin, *, beta=0.3):\n    return -beta * margin\n")
    assert declared("loss")["fresh"] == "rlx.loss.preference.margin.fresh"
    assert "fresh" in groups([conf_dir()])["loss"]
    assert declared_node("loss", "fresh") == {"_target_": "rlx.loss.preference.margin.fresh", "beta": 0.3, "modifiers": {}}


@pytest.mark.parametrize("group", ["loss", "algorithm/advantage"])
def test_a_file_of_the_users_own_that_bears_its_name_is_refused(group, tmp_path):
    name = next(iter(declared(group)))
    (tmp_path / group).mkdir(parents=True)
    (tmp_path / group / f"{name}.yaml").write_text("beta: 1\n")
    with pytest.raises(ConfigError, match=f"would be hidden by rlx's own {group}/{name}"):
        check_folders(line(config_dir=tmp_path).searched)


def test_one_that_does_not_exist_is_answered_with_the_nearest():
    assert "did you mean ipo?" in invoke(["train", "loss=ipoo"])[1]


def test_nothing_of_it_imports_torch():
    code = (
        "import sys; from rlx.config.compose import compose, groups; from rlx.config.schema import conf_dir; "
        "compose('train', ['loss=ipo']); groups([conf_dir()]); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
