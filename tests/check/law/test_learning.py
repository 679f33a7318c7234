"""Laws of the contract about the right way: each planted fault is named with a number or a place and a mend."""

from dataclasses import replace

import pytest
import torch

from rlx.check.checker import check_algorithm
from tests.check.checking import assert_named, failed, names_each, subject
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = (
    "runs",
    "direction",
    "falls",
)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


def test_what_is_no_fault_and_may_be_a_surprise_is_said():
    class LeavesRowsOut(Preferences):
        def updates(self, batch, rng):
            yield batch[slice(0, 5)]

    class PaysAllTheSame(Rewards):
        def draw(self, lab):
            batch = super().draw(lab)
            return replace(batch, rewards=torch.ones_like(batch.rewards))

    numbers = [next(iter(check_algorithm(subject(kind())))).finding.number for kind in (LeavesRowsOut, PaysAllTheSame)]
    assert numbers[0].endswith("updates leave out 3 of 8 rows")
    assert numbers[1].endswith("rewards are 1: nothing is learned from them")


def test_an_update_without_figures_is_named():
    class Forgets(Demonstrations):
        def update_policy(self, gradients, optimizer):
            optimizer.step(gradients()["loss"], self.clipping)

    assert failed(Forgets(), "runs")["runs"].wrong.startswith("update_policy of Forgets gives None")
