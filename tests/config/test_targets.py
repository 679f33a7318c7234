"""What a config may name."""

import pytest

from rlx.config.compose import CommandLine
from rlx.config.targets import check_targets, is_allowed, loader_of, loaders_in, loaders_in_folder, targets_in_folder, targets_of
from rlx.errors import ConfigError


@pytest.mark.parametrize("target", ["rlx.loss.preference.margin.dpo", "torch.optim.AdamW", "rlx.policy.tiny.load_tiny"])
def test_own(target):
    assert is_allowed(target, ())


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "pathlib.Path.write_text",
        "rlx.training.run.train",
        "rlx.cli.main.main",
        "rlx.experiment.make",
        "rlx.load",
        "rlx.errors.__builtins__",
        "rlx.loss.__loader__.load_module",
        "rlxx.loss",
        "rlx..loss",
        "",
        "rlx.loss preference",
    ],
)
def test_not_own(target):
    assert not is_allowed(target, ())


def test_named_by_the_user():
    assert is_allowed("my_lab.MyAlgorithm", {"my_lab.MyAlgorithm"})
    assert is_allowed("my_lab.loss.Mine", {"my_lab.*"})
    assert not is_allowed("my_lab.Other", {"my_lab.MyAlgorithm"})


@pytest.mark.parametrize(
    "container",
    [
        {"_target_": "os.system"},
        {"algorithm": {"loss": {"_target_": "os.system", "command": "true"}}},
        {"logger": {"a": [{"b": {"_target_": "os.system"}}]}},
        {"task": {"_target_": "rlx.task.arithmetic.Arithmetic", "name": {"_target_": "os.system"}}},
        {"task": {"_target_": ["os", "system"]}},
    ],
)
def test_refused_wherever_it_is_named(container):
    with pytest.raises(ConfigError, match="may not call"):
        check_targets(container)


def test_the_message_says_where():
    with pytest.raises(ConfigError, match=r"^algorithm\.loss\._target_ names os\.system"):
        check_targets({"algorithm": {"loss": {"_target_": "os.system"}}})


def test_every_node_is_found():
    found = dict(targets_of({"a": {"_target_": "x", "b": [{"_target_": "y"}]}, "c": 1}))
    assert found == {"a": "x", "a.b[0]": "y"}


def test_targets_of_a_folder(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "mine.yaml").write_text(
        "_target_: my_lab.Mine\nnested:\n  - _target_: 'my_lab.Other'  # a comment\n# _target_: no.No\n"
    )
    assert targets_in_folder(tmp_path) == {"my_lab.Mine", "my_lab.Other"}


@pytest.mark.parametrize(
    ("env", "loader"),
    [("my_env", "my_env.load_environment"), ("my-env", "my_env.load_environment"),
     ("owner/my-env", "my_env.load_environment"), ("my_lab.envs.Easy", "my_lab.envs.Easy")],
)  # fmt: skip
def test_a_name_stands_for_a_function_of_its_module(env, loader):
    assert loader_of(env) == loader
    assert loaders_in(f"task.env={env}") == [loader]


def test_the_names_in_an_override():
    assert loaders_in("task.env=a,'b-c'") == ["a.load_environment", "b_c.load_environment"]
    assert loaders_in("task.env=choice(a,b)") == ["a.load_environment", "b.load_environment"]
    assert loaders_in("task.name=a") == loaders_in("task.env=") == []


def test_what_a_command_line_allows(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("task:\n  env: from-folder\n")
    assert loaders_in_folder(tmp_path) == {"from_folder.load_environment"}
    line = CommandLine(overrides=["task.env=typed", "task.env=recorded"], recorded=frozenset({"task.env=recorded"}))
    assert "typed.load_environment" in line.allowed
    assert "recorded.load_environment" not in line.allowed
    assert "from_folder.load_environment" in CommandLine(values={"config_dir": str(tmp_path)}).allowed
