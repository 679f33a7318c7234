"""The law of giving tokens up: each planted fault is named with its tokens and a mend."""

from dataclasses import replace

import pytest

import rlx
from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Rewards
from tests.check.sound import BothSidesAreMasked, Clipped, ClippedWithKl, SequenceLevel
from tests.loss.catalogue import POLICY_GRADIENT, load


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, "clip"), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize(
    "kind", [Rewards, Clipped, ClippedWithKl, BothSidesAreMasked, SequenceLevel], ids=lambda kind: kind.__name__
)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), "clip") == {}


@pytest.mark.parametrize("name", POLICY_GRADIENT)
def test_no_shipped_loss_is(name):
    assert failed(replace(rlx.load("algorithm", "custom_grpo"), loss=load(name)), "clip") == {}


@pytest.mark.parametrize("name", ["ppo", "hybrid", "online_dpo"])
def test_no_shipped_algorithm_is(name):
    assert failed(rlx.load("algorithm", name), "clip") == {}
