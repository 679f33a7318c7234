"""Dotted names, what they take, and where they belong."""

from __future__ import annotations

import os
import subprocess

import pytest

from rlx.config.targets import REQUIRED, accepts, fits_group, locate, parameters_of
from rlx.errors import ConfigError


def test_locate_finds_a_class():
    import torch

    assert locate("torch.optim.SGD", "optimizer") is torch.optim.SGD


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module.Class", "no_such_module"),
        ("torch.optim.SGDD", "did you mean SGD?"),
        ("word", "not a dotted name"),
        ("a b.c", "not a dotted name"),
    ],
)
def test_locate_says_what_is_missing(target, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        locate(target, "optimizer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n", "line 1"),
        ("import no_such_package\n", "no_such_package"),
        ("x = 1\n\ny = 1 / 0\n", r"ZeroDivisionError.*\.py:3"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 .*\.py:2"),
        ("from dataclasses import dataclass\n@dataclass\nclass A:\n    x: list = []\n", r"mutable default.*broken_.*\.py:"),
    ],
)
def test_a_module_that_cannot_be_imported_names_file_and_line(text, message, tmp_path, monkeypatch):
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        locate(f"{name}.Thing", "algorithm")


def test_a_file_that_a_module_of_python_hides_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("class Mine: ...\n")
    with pytest.raises(ConfigError, match=r"json has no Mine; Python has a module json .*, which hides json\.py: give that file"):
        locate("json.Mine", "algorithm")
    with pytest.raises(ConfigError, match="did you mean SGD"):
        locate("torch.optim.SGDD", "optimizer")


def test_a_module_that_is_not_there_is_one_like_it_perhaps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_lab.py").write_text("")
    with pytest.raises(ConfigError, match=r"my_lb, which is neither here nor on the Python path; did you mean my_lab\?"):
        locate("my_lb.Mine", "algorithm")


def test_groups_take_their_own(lab):
    assert fits_group(locate(f"{lab}.Bare", ""), "algorithm")
    assert fits_group(locate(f"{lab}.MyLoss", ""), "loss")
    assert fits_group(locate("torch.optim.SGD", ""), "optimizer")
    assert fits_group(locate(f"{lab}.my_policy", ""), "policy")


def test_groups_refuse_others(lab):
    assert not fits_group(locate(f"{lab}.NotOne", ""), "algorithm")
    assert not fits_group(locate(f"{lab}.MyLoss", ""), "algorithm")
    assert not fits_group(locate(f"{lab}.returns_nothing", ""), "policy")
    assert not fits_group(os.system, "loss")


def test_parameters_of_a_dataclass(lab):
    found = parameters_of(locate(f"{lab}.Bare", ""))
    assert found["size"].default is REQUIRED
    assert (found["extra"].hint, found["extra"].default) == (float, 0.5)
    assert "kind" not in found


def test_parameters_of_a_function_and_of_an_optimizer(lab):
    assert {name: item.default for name, item in parameters_of(locate(f"{lab}.my_policy", "")).items()} == {
        "path": REQUIRED,
        "depth": 2,
    }
    assert [item.name for item in parameters_of(locate("torch.optim.SGD", "")).values() if item.given_by_caller] == ["params"]


def test_any_keyword_is_no_signature():
    def anything(**options):
        pass

    assert parameters_of(anything) is None


def test_nested_nodes_fit_their_annotation(lab):
    from rlx.loss.preference.margin import dpo

    mine, owner = locate(f"{lab}.MyLoss", ""), locate(f"{lab}.Bare", "")
    assert accepts(dpo, mine, owner)
    assert accepts(dpo | None, mine, owner)
    assert not accepts(int | None, os.system, owner)
    assert not accepts(dpo, owner, owner)
    from typing import Any

    assert not accepts(Any, os.system, owner)
    assert not accepts(Any, subprocess.Popen, owner)
    assert accepts(Any, mine, owner)
