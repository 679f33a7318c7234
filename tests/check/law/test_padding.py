"""Padding that a draw comes with is told from random numbers for each place and from tensors of a width of their own."""

from dataclasses import replace

import torch

import rlx
from rlx.data.sequences import Sequences
from rlx.loss.weight import token_mean
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


class MedianWithThePadding(Rewards):
    """Tokens below a median learn, which padding, of log-probability 0, is part of."""

    def draw(self, lab):
        batch = super().draw(lab)
        said = batch.sampling_logprobs
        return batch.with_values(weights=token_mean.formula(batch.loss_mask & (said <= self.held(said, batch).median())))

    def held(self, said, batch):
        return said


class MedianOfTokens(MedianWithThePadding):
    def held(self, said, batch):
        return said[batch.loss_mask]


class RandomTokens(Rewards):
    """Random numbers for each place, of a stream."""

    def draw(self, lab):
        batch = super().draw(lab)
        drawn = torch.rand(batch.loss_mask.shape, generator=lab.rng.child("tokens", lab.step).torch())
        return batch.with_values(weights=token_mean.formula(batch.loss_mask & (drawn < 0.7)))


def test_what_a_draw_makes_of_tokens_and_padding_is_named():
    assert "reads the padding too" in failed(MedianWithThePadding(), "padding")["padding"].wrong
    assert failed(MedianOfTokens(), "padding") == {}
    assert failed(RandomTokens(), "padding") == {}
