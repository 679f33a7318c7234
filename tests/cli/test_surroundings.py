"""Hydra leaves the process as it was."""

import logging
import os
import sys

import pytest

from rlx.cli.main import hydra_surroundings, invoke

pytestmark = pytest.mark.whole


def test_what_hydra_logs_with_ends_with_it(capsys):
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    assert invoke(["--info", "searchpath"]) == (0, "")
    assert "main" in capsys.readouterr().out
    assert (root.handlers, root.level) == before


def test_arguments_and_environment_are_given_back_after_an_error(monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = sys.argv

    def fails():
        with hydra_surroundings(["seed=1"]):
            assert sys.argv == ["rlx", "seed=1"]
            assert os.environ["HYDRA_FULL_ERROR"] == "1"
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert sys.argv == before
    assert "HYDRA_FULL_ERROR" not in os.environ
