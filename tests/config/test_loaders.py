"""`task.env` names code, and only the command line or a folder given there may."""

import pytest

from rlx.config.compose import CommandLine
from rlx.config.loaders import loader_of, loaders_in, loaders_in_folder


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
