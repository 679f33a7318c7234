"""The cheapest rows of a forward pass."""

import numpy as np
import pytest
from hypothesis import given, settings

from rlx.data.layout import balanced, cheapest_rows, plain_rows, shared_prefix_rows
from rlx.data.sequences import Sequences
from tests.data.test_layout import sequences


@given(sequences())
@settings(deadline=None, max_examples=100)
def test_no_packing_costs_more_than_a_prompt_to_a_row_or_plain_rows(batch):
    fewest = min(rows(batch).tokens.numel() for rows in (plain_rows, shared_prefix_rows))
    assert cheapest_rows(batch, attention_cost=0.0).tokens.numel() <= fewest


def test_as_many_prompts_go_into_each_row_where_they_are_of_similar_lengths():
    lengths = (9, 12, 13, 14, 15, 16, 16, 17, 17, 17, 17, 17, 21, 22, 23, 24)
    batch = Sequences(tuple(np.arange(length) for length in lengths), ((np.array([1]),),) * len(lengths))
    assert cheapest_rows(batch, attention_cost=0.0).tokens.numel() <= 1.05 * sum(lengths)


def test_rows_are_packed_until_attention_costs_more_than_padding():
    draw = np.random.default_rng(0)
    prompts = tuple(draw.integers(1, 9, n) for n in (40, 3, 3, 3, 4, 4, 4, 5, 5, 5))
    batch = Sequences(prompts, tuple((draw.integers(1, 9, 3), draw.integers(1, 9, 3)) for _ in prompts))
    packed = cheapest_rows(batch, attention_cost=0.0)
    assert packed.tokens.numel() < 0.5 * shared_prefix_rows(batch).tokens.numel()
    # Two long completions of a short prompt: sharing saves one token and doubles the masked attention.
    long = Sequences((np.array([1]),), ((np.arange(100), np.arange(1, 101)),))
    assert cheapest_rows(long, attention_cost=0.1).attention_mask is None
    assert cheapest_rows(long, attention_cost=0.0).attention_mask is not None


@pytest.mark.parametrize("num_rows", [1, 3, 7, 20])
def test_every_item_gets_a_row_and_no_row_stays_empty(num_rows):
    assert set(balanced(np.array([5, 9, 2, 2, 7, 1, 4]), num_rows)) == set(range(min(num_rows, 7)))


def test_the_longest_items_are_spread_first():
    # 9, 7, 5 to a row each; then 4 joins 5, 2 joins 7, and 2 and 1 join what is shortest by then, each 9.
    assert np.bincount(balanced(np.array([5, 9, 2, 2, 7, 1, 4]), 3), weights=[5, 9, 2, 2, 7, 1, 4]).tolist() == [11, 10, 9]


def test_long_completions_are_computed_branch_by_branch_where_the_model_can():
    draw = np.random.default_rng(0)
    group = tuple(draw.integers(1, 9, 192) for _ in range(8))
    batch = Sequences((draw.integers(1, 9, 192),), (group,))
    apart = cheapest_rows(batch, attention_cost=4e-4, branch_cost=0.1)
    assert apart.segments is not None
    assert apart.tokens.shape == (1, 192 + 8 * 191)
    assert cheapest_rows(batch, attention_cost=4e-4).segments is None
    assert cheapest_rows(batch, attention_cost=4e-4, branch_cost=10.0).segments is None
