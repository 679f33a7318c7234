"""What a class says it is, in its docstring or by its name."""

from dataclasses import replace

import pytest
import torch.nn.functional as F

import rlx
from rlx.check.claim import claimed
from rlx.cli.verb.check import hint
from rlx.loss import completion_advantage, preference_loss
from tests.check.checking import subject, with_loss

NAMES = ("dpo", "orpo", "r_dpo", "grpo", "hinge", "simpo")


@preference_loss
def simpo_with_the_target_added(mean_policy_margin, *, beta=2.0, gamma=1.0):
    """SimPO: the margin of means less its target."""
    return -F.logsigmoid(beta * mean_policy_margin + gamma)


def made(name: str, docstring: str) -> object:
    kind = type(name, (), {"__doc__": docstring, "__module__": __name__})
    return kind()


@pytest.mark.parametrize(
    ("name", "docstring", "expected"),
    [
        ("Loss", "ORPO by hand: odds, not probabilities.", "orpo"),
        ("Loss", "R-DPO, which is DPO with a cost of length.", "r_dpo"),
        ("MyOrpo", "", "orpo"),
        ("Loss", "SimPO, with a target.", "simpo"),
        ("Loss", "A hinge of margins.", ""),
        ("Loss", None, ""),
    ],
)
def test_names_in_capitals_and_in_class_names_are_claims(name, docstring, expected, monkeypatch):
    monkeypatch.setattr("rlx.check.claim.is_users_file", lambda path: True)
    assert claimed(made(name, docstring), NAMES) == expected


def test_nothing_is_asked_of_what_rlx_ships():
    assert claimed(rlx.load("loss", "orpo"), NAMES) == ""


def test_a_claim_is_held_against_what_it_names():
    said = hint(subject(with_loss(simpo_with_the_target_added())), "loss=lab.mine")
    assert said.startswith("lab.mine names simpo and differs from it: the loss is ")
    assert "same_as=simpo" in said


@completion_advantage
def weighed_by_the_inverse(rewards, lengths):
    """OPO: rewards less their mean weighed by length."""
    weights = 1 / lengths.clamp(min=1)
    return rewards - (rewards * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True)


def test_an_advantage_is_held_against_what_it_names():
    algorithm = replace(rlx.load("algorithm", "custom_grpo"), advantage=weighed_by_the_inverse())
    said = hint(subject(algorithm), "algorithm=custom_grpo")
    assert "weighed_by_the_inverse names opo and differs from it: the advantages are " in said
    assert "algorithm=custom_grpo algorithm/advantage=tests.check.test_claim.weighed_by_the_inverse same_as=opo" in said


@preference_loss
def ipo_of_moderate_margins(margin, *, beta=0.1):
    """IPO, of margins that it knows."""
    if float(margin.detach().abs().max()) > 1.0:
        raise ValueError("margins beyond 1")
    return (margin - 1 / (2 * beta)) ** 2


def test_what_raises_beside_its_claim_is_said_and_no_traceback():
    said = hint(subject(with_loss(ipo_of_moderate_margins())), "loss=lab.mine")
    assert "raises an error when the two are compared (ValueError: margins beyond 1)" in said
    assert "same_as=ipo" in said
