"""What a command line names, it may call."""

import pytest

from rlx.config.compose import CommandLine, check_folders
from rlx.errors import ConfigError


def line(*overrides, config_dir=None):
    return CommandLine(overrides=list(overrides), values={} if config_dir is None else {"config_dir": str(config_dir)})


def test_targets_on_the_command_line():
    assert {"my_lab.A", "my_lab.B"} <= line("algorithm._target_=my_lab.A", "+loss._target_=my_lab.A,my_lab.B").allowed
    assert "my_lab.C" in line("+logger.x={_target_:my_lab.C,size:3}").allowed


def test_targets_in_the_folders_it_names(tmp_path):
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "x.yaml").write_text("_target_: my_lab.C\n")
    assert "my_lab.C" in line(config_dir=tmp_path).allowed
    assert "my_lab.C" in line(f"hydra.searchpath=[file://{tmp_path}]").allowed
    assert "my_lab.C" not in line().allowed


def test_a_package_on_the_search_path():
    assert "my_lab.*" in line("hydra.searchpath=[pkg://my_lab.conf]").allowed


def test_searched(tmp_path):
    spaced = line("hydra.searchpath=[file:///my conf, pkg://c.d,'/a b']").searched
    assert spaced == [("file", "/my conf"), ("pkg", "c.d"), ("file", "/a b")]
    assert line("hydra.searchpath=[a,file:///b,pkg://c.d]", config_dir=tmp_path).searched == [
        ("file", str(tmp_path)),
        ("file", "a"),
        ("file", "/b"),
        ("pkg", "c.d"),
    ]


def test_a_file_that_rlxs_own_would_hide(tmp_path):
    (tmp_path / "train.yaml").touch()
    with pytest.raises(ConfigError, match=r"train\.yaml"):
        check_folders(line(config_dir=tmp_path).searched)
