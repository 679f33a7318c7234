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


VERB = '''"""Counts the steps of a plan."""

from dataclasses import dataclass

from omegaconf import MISSING

from rlx.config.schema import at_least


@dataclass
class TellConfig:
    """rlx tell."""

    steps: int = at_least(1)
    names: list[str] = MISSING


SCHEMA = TellConfig
WORDS = "names"
NO_SWEEP = "several names are words"


def run(composed):
    print(composed.config.steps, *composed.config.names, composed.command[-1])
    return 5
'''


def test_it_may_bring_a_verb(plugin, tmp_path, capsys):
    (tmp_path / plugin / "verb").mkdir()
    (tmp_path / plugin / "verb" / "tell.py").write_text(VERB)
    (tmp_path / plugin / "conf" / "tell.yaml").write_text(
        "defaults:\n  - tell_config\n  - hydra: quiet\n  - _self_\nsteps: 3  # how many\nnames: []\n"
    )
    assert invoke(["tell", "a", "b", "steps=4"]) == (5, "")
    assert capsys.readouterr().out == "4 a b steps=4\n"
    assert invoke(["tell", "steps=0"]) == (2, "rlx: steps=0: it must be a whole number at least 1")
    assert "did you mean steps?" in invoke(["tell", "stepps=2"])[1]
    assert "leave out -m; several names are words" in invoke(["-m", "tell"])[1]
    assert invoke(["--help"]) == invoke(["tell", "--help"]) == (0, "")
    assert "tell      Counts the steps of a plan." in capsys.readouterr().out
