"""Composing from Python, and what there is to choose."""

import pytest
from omegaconf import OmegaConf

from rlx.config.check import plain
from rlx.config.compose import compose, config_folders, group_of, groups, node_comments
from rlx.config.schema import conf_dir


def test_groups_lists_what_lies_in_the_folders(tmp_path):
    (tmp_path / "task" / "hard").mkdir(parents=True)
    (tmp_path / "task" / "mine.yaml").touch()
    (tmp_path / "task" / "hard" / "very.yaml").touch()
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "x.yaml").touch()
    (tmp_path / "train.yaml").touch()
    assert groups([tmp_path]) == {"task": ["mine"], "task/hard": ["very"]}


def test_group_of():
    known = ["loss", "algorithm/regularizer"]
    assert group_of("loss=ipo", known) == "loss"
    assert group_of("+loss@algorithm.dpo.loss=ipo", known) == "loss"
    assert group_of("algorithm/regularizer=entropy", known) == "algorithm/regularizer"
    assert group_of("loss.beta=1", known) is None


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group, options in groups([conf_dir()]).items()
        for option in options
        if group not in ("experiment", "logger")
    ],
)
def test_every_option_of_every_group_composes(group, option):
    node = OmegaConf.to_container(compose("train", [f"{group}={option}"]), resolve=False)
    for part in group.split("/"):
        node = node[part]
    assert node["_target_"].startswith(("rlx.", "torch.optim."))


@pytest.mark.parametrize("loggers", ["[]", "[tensorboard]", "[tensorboard,wandb,mlflow]"])
def test_several_loggers(loggers):
    assert list(compose("train", [f"logger={loggers}"]).logger) == [name for name in loggers.strip("[]").split(",") if name]


@pytest.mark.parametrize("experiment", groups([conf_dir()]).get("experiment", []))
def test_every_experiment_composes(experiment):
    assert plain(compose("train", [f"experiment={experiment}"]))["num_steps"] >= 1


def test_node_comments_leave_the_defaults_out():
    text = node_comments(conf_dir() / "train.yaml")
    assert "num_steps: 200" in text
    assert "defaults:" not in text
    assert "run_config" not in text


def test_config_folders_begin_with_rlxs_own(tmp_path):
    assert config_folders([tmp_path])[:2] == [conf_dir(), tmp_path]
