"""Installed packages that bring YAML files and classes of their own."""

import sys

import pytest

from rlx.cli.main import invoke
from rlx.config.sources import plugin_packages, plugin_targets


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed package with the entry point rlx.plugins."""
    name = "plugin_lab"
    (tmp_path / name / "conf" / "loss").mkdir(parents=True)
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "conf" / "__init__.py").touch()
    (tmp_path / name / "conf" / "loss" / "gentle.yaml").write_text(
        "_target_: rlx.loss.preference.margin.dpo\nbeta: 0.01\nmodifiers: {}\n"
    )
    info = tmp_path / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rlx.plugins]\nmine = {name}\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        del sys.modules[module]


def test_its_folder_is_searched(plugin, capsys):
    assert plugin_packages() == [f"{plugin}.conf"]
    assert invoke(["train", "loss=gentle", "--cfg", "job"]) == (0, "")
    assert "beta: 0.01" in capsys.readouterr().out


def test_its_options_are_listed_and_suggested(plugin, capsys):
    assert invoke(["--help"]) == (0, "")
    assert "gentle" in capsys.readouterr().out.split()
    assert "did you mean gentle?" in invoke(["train", "loss=gentl"])[1]


def test_its_classes_may_be_named(plugin):
    assert plugin_targets() == {f"{plugin}.*"}


def test_without_plugins_nothing_is_added():
    assert plugin_packages() == []
