"""Composing from Python, and what there is to choose."""

import pytest
from omegaconf import OmegaConf

from rlx.cli.line import parse_arguments
from rlx.config.check import plain_config
from rlx.config.compose import compose, config_folders, group_of, groups, option_node
from rlx.config.groups import RUN_GROUPS
from rlx.config.schema import conf_dir
from rlx.errors import ConfigError


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


PARENT = {
    "algorithm/advantage": ["algorithm=custom_grpo"],
    "algorithm/combine": ["algorithm=hybrid"],
    "algorithm/value_loss": ["algorithm=custom_grpo"],
    "task/environment": ["task=environment"],
    "task/tool": ["task=tool_file"],
}
SEVERAL = {"task/reward": ["task", "rewards"], "task/tool": ["task", "environment", "tools"]}
NODES = {
    group: options
    for group, options in groups([conf_dir()]).items()
    if group.partition("/")[0] in RUN_GROUPS and group != "logger"
}


@pytest.mark.parametrize(("group", "option"), [(group, option) for group, options in NODES.items() for option in options])
def test_every_option_of_every_group_composes(group, option):
    cfg = compose("train", [*PARENT.get(group, []), f"{group}=[{option}]" if group in SEVERAL else f"{group}={option}"])
    node = OmegaConf.to_container(cfg, resolve=False)
    for part in [*SEVERAL[group], option] if group in SEVERAL else group.split("/"):
        node = node[part]
    assert node["_target_"].startswith(("rlx.", "torch.optim."))


def test_an_option_that_builds_on_another_has_its_keys(tmp_path):
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "a.yaml").write_text("_target_: x.A\nsize: 1\ncolour: red\n")
    (tmp_path / "algorithm" / "b.yaml").write_text("defaults:\n  - a\n  - other: thing\n  - _self_\nsize: 2\n")
    assert option_node("algorithm", "b", [tmp_path]) == {"_target_": "x.A", "size": 2, "colour": "red"}
    assert option_node("algorithm", "c", [tmp_path]) == {}


@pytest.mark.parametrize("loggers", ["[]", "[tensorboard]", "[tensorboard,wandb,mlflow]"])
def test_several_loggers(loggers):
    assert list(compose("train", [f"logger={loggers}"]).logger) == [name for name in loggers.strip("[]").split(",") if name]


@pytest.mark.parametrize("experiment", groups([conf_dir()]).get("experiment", []))
def test_every_experiment_composes(experiment):
    assert plain_config(compose("train", [f"experiment={experiment}"]))["num_steps"] >= 1


def test_config_folders_begin_with_rlxs_own(tmp_path):
    assert config_folders([tmp_path])[:2] == [conf_dir(), tmp_path]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "k0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"k{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)),
            "more than",
        ),
        ("seed: &s [*s]\n", "refers to a node that contains it"),
        ("a: &x {b: {c: *x}}\n", "refers to a node that contains it"),
    ],
)
def test_aliases_that_stand_for_too_much_are_refused_before_they_are_written_out(tmp_path, text, said):
    file = tmp_path / "experiment" / "bomb.yaml"
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"bomb.yaml: .*{said}"):
        parse_arguments(["train", "--config-dir", str(tmp_path), "experiment=bomb"]).check()
    file.write_text("a: &x [1, 2]\nb: *x\nc: [*x, *x]\n")
    parse_arguments(["train", "--config-dir", str(tmp_path), "experiment=bomb"]).check()


@pytest.mark.parametrize("number", ["1:30:00", "[2, 1:30]", "190:20:30.15"])
def test_a_number_in_base_60_is_refused(tmp_path, number):
    file = tmp_path / "experiment" / "clock.yaml"
    file.parent.mkdir()
    file.write_text(f"a: 1\nseed: {number}\n")
    with pytest.raises(ConfigError, match=r"clock.yaml:2: YAML reads [\d:.]+ as a number in base 60"):
        parse_arguments(["train", "--config-dir", str(tmp_path), "experiment=clock"]).check()
    (tmp_path / "docker-compose.yaml").write_text("ports: [22:22]\n")  # another program's
    file.write_text("a: '1:30'  # at 1:30\nb: http://localhost:8000/v1\nc: {d: x:1:30}\n")
    parse_arguments(["train", "--config-dir", str(tmp_path), "experiment=clock"]).check()
