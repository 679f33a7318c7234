"""Laws of the contract about slopes: each planted fault is named with a number or a place and a mend."""

import pytest

import rlx
from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = ("differences",)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


def test_a_statistic_without_a_gradient_is_not_taken_for_another():
    ppo = rlx.load("algorithm", "ppo", prompts_per_step=4, minibatches=1)  # reads entropy for a figure alone, and values
    assert failed(ppo, *LAWS) == {}
