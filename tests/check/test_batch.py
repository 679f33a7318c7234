"""A batch taken apart: reordered and padded, it holds the same."""

import copy

import torch

from rlx.check.batch import parts_of, permuted, signature, tensors_of, with_padding
from tests.check.checking import subject
from tests.check.faulty import Rewards


def drawn(**settings):
    checked = subject(Rewards(**settings))
    return checked.first_update(checked.stand_in())


def test_rows_in_another_order_are_the_same_rows():
    batch = drawn()
    moved = permuted(batch)
    assert signature(moved) != signature(batch)
    assert torch.equal(moved.rewards.sort(dim=0).values, batch.rewards.sort(dim=0).values)
    assert moved.sequences.completion_lengths.sum() == batch.sequences.completion_lengths.sum()
    assert torch.equal(moved.weights.sum(dim=-1) > 0, moved.completion_mask.any(dim=-1))


def test_equal_batches_have_one_signature_and_values_that_differ_another():
    numbers = torch.arange(4.0)
    values = [
        1,
        1.0,
        True,
        "1",
        b"1",
        None,
        (1, 2),
        {1: 2},
        torch.ones(2),
        torch.ones(2, 1),
        numbers,
        numbers.numpy()[:3],
        -0.0,
        0.0,
    ]
    assert len({signature([value]) for value in values}) == len(values)
    assert all(signature([value]) == signature([copy.deepcopy(value)]) for value in values)


def test_padding_widens_what_lies_along_tokens_alone():
    batch, wider = drawn(), with_padding(drawn(), 3)
    width = batch.sequences.width
    assert wider.sequences.width == width + 3
    assert torch.equal(wider.weights[..., :width], batch.weights)
    assert wider.rewards.shape == batch.rewards.shape
    batch = drawn(group_size=width)  # as many completions as tokens
    assert batch.sequences.width == width
    assert with_padding(batch, 3).rewards.shape == batch.rewards.shape


def test_every_tensor_is_found_by_its_name():
    names = [where for where, _ in tensors_of(drawn())]
    assert "batch.rewards" in names
    assert "batch.weights" in names
    assert parts_of(drawn())[0].sequences.group_size == Rewards().group_size
