"""The law of the reference of a preference: each planted fault is named."""

from dataclasses import replace

import pytest

import rlx
from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Preferences
from tests.loss.catalogue import PREFERENCE, load

NEEDS_SCORES = {name for name in PREFERENCE if "scores" in load(name).requires}  # which pairs of sums do not have


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, "reference"), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


def test_a_sound_one_is_not():
    assert failed(Preferences(), "reference") == {}


@pytest.mark.parametrize("name", sorted(set(PREFERENCE) - NEEDS_SCORES))
def test_no_shipped_loss_is(name):
    assert failed(replace(rlx.load("algorithm", "dpo"), loss=load(name)), "reference", "anchor") == {}
