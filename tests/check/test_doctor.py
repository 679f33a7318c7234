"""The doctor of the installation: what is found, and what is amiss."""

import re
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from rlx.check import doctor
from rlx.training.stop import Stopped


def test_this_installation_is_well():
    facts = [doctor.python_version(), doctor.packages(), doctor.extras(), doctor.cpu(), doctor.gpu(), doctor.disk(Path.cwd())]
    assert not [fact for fact in facts if fact.mark == doctor.BAD]
    assert torch.__version__.partition("+")[0] in facts[1].found


def test_a_missing_package_is_bad(monkeypatch):
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    assert doctor.packages().mark == doctor.BAD
    assert "no-such-package" in doctor.packages().found


def test_missing_extras_are_named_with_what_brings_them(monkeypatch):
    monkeypatch.setattr(doctor, "EXTRAS", {"there": "json", "absent": "no_such_module"})
    assert doctor.extras().found == "there"
    assert "rlx[absent]" in doctor.extras().advice


def test_every_extra_that_adds_to_rlx_is_looked_for():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    offered = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert set(doctor.EXTRAS) == offered - {"peers", "dev"}


def test_little_room_is_noted(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10, 9, 1))
    assert doctor.disk(Path.cwd()).mark == doctor.NOTE


def test_the_faster_dtype_is_argued_for():
    assert "bfloat16 is" in doctor.best_dtype({"float32": 1e9, "bfloat16": 4e9}).found
    assert "float32 is" in doctor.best_dtype({"float32": 1e9, "bfloat16": 1e7}).found


def test_a_short_run_trains_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fact = doctor.end_to_end()
    assert fact.mark == doctor.OK, fact
    assert not any(tmp_path.iterdir())


def test_a_signal_is_no_finding(monkeypatch):
    import rlx

    def stopped(overrides):
        raise Stopped(0, signal.SIGTERM)

    monkeypatch.setattr(rlx, "train", stopped, raising=False)
    with pytest.raises(Stopped):
        doctor.end_to_end()


def test_a_run_that_breaks_is_the_finding(monkeypatch):
    import rlx

    def broken(overrides):
        raise OSError("no space")

    monkeypatch.setattr(rlx, "train", broken, raising=False)
    assert doctor.end_to_end() == doctor.Fact(doctor.BAD, "a short run", "OSError: no space", "fix this first")
