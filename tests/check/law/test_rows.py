"""Laws of the contract about cut, reordered and padded: each planted fault is named with a number or a place and a mend."""

import pytest

from tests.check.checking import assert_named, failed, names_each
from tests.check.faulty import FAULTS, Demonstrations, Preferences, Rewards

LAWS = (
    "split",
    "padding",
    "order",
)


@pytest.mark.parametrize(("kind", "law"), names_each(FAULTS, *LAWS), ids=lambda value: getattr(value, "__name__", value))
def test_a_fault_is_named(kind, law):
    assert_named(kind, law)


@pytest.mark.parametrize("kind", [Demonstrations, Preferences, Rewards], ids=lambda kind: kind.__name__)
def test_a_sound_one_is_not(kind):
    assert failed(kind(), *LAWS) == {}


def test_a_loss_that_raises_in_another_order_breaks_the_law_and_is_not_passed_over():
    first = []

    class Particular(Preferences):
        def compute_loss(self, policy, reference, batch):
            lengths = policy.pair_logprobs(batch).chosen_length.tolist()
            first[:] = first or lengths
            if lengths != first:
                raise IndexError("the longest row must come where it came")
            return super().compute_loss(policy, reference, batch)

    assert "the longest row must come where it came" in failed(Particular(), "order")["order"].wrong
