"""The law of tokens: each planted fault is named with a number or a place and a mend."""

import pytest
import torch

from rlx.check.checker import LAWS as LAWS_BY_NAME
from rlx.check.checker import check_algorithm
from tests.check.checking import assert_named, failed, names_each, subject
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = ("tokens",)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


def test_rows_that_weigh_nothing_are_counted():
    class EverySecond(Preferences):
        def draw(self, lab):
            batch = super().draw(lab)
            return batch.with_weights(preference=torch.arange(len(batch)) % 2 / len(batch))

    (verdict,) = check_algorithm(subject(EverySecond()), laws={"tokens": LAWS_BY_NAME["tokens"]})
    assert verdict.finding.number.endswith("; 4 of 8 rows weigh 0")
