"""Padding that a draw comes with is told from random numbers for each place and from tensors of a width of their own."""

from dataclasses import replace

import torch

import rlx
from rlx.data.sequences import Sequences
from tests.check.checking import failed
from tests.check.faulty import Rewards
from tests.check.mistakes import PairsDividedByTheWidth
from tests.check.unusual import TokensOutOfAHat


def test_the_layout_of_the_rows_does_not_matter():
    assert failed(replace(rlx.load("algorithm", "custom_dpo"), pairs_per_step=6), "padding") == {}


def test_a_weight_that_goes_with_the_width_is_named_with_both_widths():
    usual = Sequences.__post_init__
    wrong = failed(PairsDividedByTheWidth(), "padding")["padding"].wrong
    assert wrong.startswith("5 more columns of padding, ")
    assert Sequences.__post_init__ is usual


class WidthOfItsOwn(Rewards):
    """Weights are put together in a table as wide as the longest completion."""

    def draw(self, lab):
        batch = super().draw(lab)
        longest = int(batch.sequences.completion_lengths.max())
        table = torch.zeros(*batch.rewards.shape, longest, dtype=torch.float64)
        table[batch.loss_mask[..., :longest]] = 1.0
        return batch.with_values(weights=batch.loss_mask * table / table.sum())


def test_random_numbers_for_each_place_and_a_width_of_ones_own_are_not_accused():
    assert failed(TokensOutOfAHat(), "padding") == {}
    assert failed(WidthOfItsOwn(), "padding") == {}
