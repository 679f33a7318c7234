"""Two of a kind are compared, others refused; the command line says it with its exit code."""

import json

import pytest

import rlx
from rlx.check.same_as.algorithm import compare
from rlx.cli.main import invoke
from rlx.errors import ConfigError
from tests.check.checking import subject


def test_a_loss_is_not_held_against_an_algorithm():
    algorithm = rlx.load("algorithm", "dpo")
    with pytest.raises(ConfigError, match="a Dpo is held against a dpo"):
        compare(subject(algorithm), algorithm, rlx.load("loss", "dpo"), name="dpo")


def test_the_command_line_says_it(capsys):
    assert invoke(["check", "loss=dpo", "loss.beta=0.4", "same_as=dpo"]) == (0, "")
    assert "dpo with beta=0.4 (its own 0.1)" in capsys.readouterr().out
    assert (
        invoke(["check", "algorithm=custom_grpo", "algorithm/advantage=leave_one_out", "same_as=group_centered", "json=true"])[0]
        == 1
    )
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["same_as"]) == (False, "group_centered")
    code, message = invoke(["check", "loss=dpo", "same_as=dpoo"])
    assert code == 2
    assert "dpo" in message
