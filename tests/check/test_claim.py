"""What a class says it is, in its docstring or by its name."""

import pytest

import rlx
from rlx.check.claim import claimed

NAMES = ("dpo", "orpo", "r_dpo", "grpo", "hinge")


def made(name: str, docstring: str) -> object:
    kind = type(name, (), {"__doc__": docstring, "__module__": __name__})
    return kind()


@pytest.mark.parametrize(
    ("name", "docstring", "expected"),
    [
        ("Loss", "ORPO by hand: odds, not probabilities.", "orpo"),
        ("Loss", "R-DPO, which is DPO with a cost of length.", "r_dpo"),
        ("MyOrpo", "", "orpo"),
        ("Loss", "A hinge of margins.", ""),
        ("Loss", None, ""),
    ],
)
def test_names_in_capitals_and_in_class_names_are_claims(name, docstring, expected, monkeypatch):
    monkeypatch.setattr("rlx.check.claim.is_users_file", lambda path: True)
    assert claimed(made(name, docstring), NAMES) == expected


def test_nothing_is_asked_of_what_rlx_ships():
    assert claimed(rlx.load("loss", "orpo"), NAMES) == ""
