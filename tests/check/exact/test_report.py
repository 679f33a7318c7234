"""The report of the exact laboratory, and the figures in the docstrings of the losses."""

import inspect
from dataclasses import replace

import pytest

import rlx
from rlx.check.exact.expectation import alone, figure_line, figure_of, measured
from rlx.check.exact.world import World
from rlx.cli.main import invoke
from rlx.loss.advantage.completion import leave_one_out
from rlx.loss.policy_gradient.base import PolicyGradientLoss
from tests.check.checking import subject
from tests.loss.catalogue import NAMES, load

SUBJECT = subject(rlx.load("algorithm", "custom_grpo"))
FORMULAS = [name for name in NAMES if isinstance(load(name), PolicyGradientLoss) and type(load(name)).__name__ == name]


@pytest.mark.parametrize("name", ["gspo", "clip_cov", "capped"])
def test_all_groups_at_once_are_what_an_algorithm_finds_one_after_the_other(name):
    algorithm = replace(rlx.load("algorithm", "custom_grpo"), loss=load(name), advantage=leave_one_out())
    checked = subject(alone(algorithm))
    world = World.of(checked.policy, vocabulary=3, length=2)
    for which, on_policy in enumerate((True, False)):
        slow = measured(checked, world, on_policy=on_policy, ordered=False, has_kl=False, beta=0.0)
        quick = figure_of(load(name), checked, world=world)[which]
        assert quick.bias == pytest.approx(slow.bias, rel=1e-5)
        assert quick.variance == pytest.approx(slow.variance, rel=1e-5)


def test_what_samples_nothing_is_refused(capsys):
    code, message = invoke(["check", "algorithm=dpo", "exact=true"])
    assert code == 2
    assert "samples nothing" in message


@pytest.mark.slow
def test_the_command_prints_bias_and_variance(capsys):
    assert invoke(["check", "algorithm=rloo", "exact=true", "loss.beta=0.1"]) == (0, "")
    printed = capsys.readouterr().out
    assert "completions of 1 to 3 tokens (85), groups of 2 (3655)" in printed
    assert "objective: expected reward - 0.1 KL(policy || reference)" in printed
    assert "at the states visited" in printed


@pytest.mark.parametrize("name", FORMULAS)
def test_every_policy_gradient_loss_says_what_it_is(name):
    assert "Exact: on policy bias " in (inspect.getdoc(type(load(name))) or "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMULAS)
def test_a_docstring_has_the_figures_that_are_measured(name):
    assert figure_line(*figure_of(load(name), SUBJECT)) in " ".join((inspect.getdoc(type(load(name))) or "").split())
