"""Batches that several ranks drew: the same up to rounding, or where they differ."""

import dataclasses

import pytest
import torch

import rlx
from rlx.parallel.alike import contents, difference
from tests.parallel.group import small
from tests.parallel.laboratory import laboratory


@pytest.fixture(scope="module")
def batches():
    lab = laboratory(torch.float32)
    return {name: small(rlx.load("algorithm", name)).draw(lab) for name in ("custom_dpo", "grpo", "ppo")}


@pytest.mark.parametrize("name", ["custom_dpo", "grpo", "ppo"])
def test_a_batch_is_like_itself_also_when_more_of_it_was_looked_at(batches, name):
    before = contents(batches[name])
    batches[name][:2].row_tokens  # noqa: B018 (what it keeps is filled)
    assert difference(before, contents(batches[name])) == ""


def test_rounding_is_no_difference_and_other_numbers_are(batches):
    batch = batches["grpo"]
    first = contents(batch)

    def changed(**values):
        return difference(first, contents(dataclasses.replace(batch, **values)))

    assert changed(advantages=batch.advantages * (1 + 1e-6)) == ""
    assert changed(advantages=batch.advantages.flip(0)) == "advantages"
    assert changed(weights=batch.weights.roll(1, 0)) == "weights"
    assert changed(finished=~batch.finished) == "finished"
    assert changed(metrics={"seconds": 3.0}) == ""


def test_other_pairs_of_the_same_lengths_and_other_weights_of_the_same_sum(batches):
    batch = batches["custom_dpo"]
    weight = torch.linspace(0, 1, len(batch))
    one, other = batch.with_weights(own=weight), batch.with_weights(own=weight.flip(0))
    assert difference(contents(one), contents(other)) == "weights.own"
    assert difference(contents(batch), contents(dataclasses.replace(batch, rows=batch.rows[::-1].copy()))) != ""


def test_rows_of_a_class_of_ones_own():
    class Own:
        def __init__(self, rows):
            self.rows = torch.tensor(rows)

        @property
        def row_tokens(self):
            return [1] * len(self.rows)

    assert difference(contents(Own([1, 2])), contents(Own([1, 2]))) == ""
    assert difference(contents(Own([1, 2])), contents(Own([2, 1]))) == "rows"
    assert difference(contents(Own([1, 2])), contents(Own([1]))) == "row_tokens"


def test_unusual_tensors_of_a_batch_are_compared_too(batches):
    class Own:
        def __init__(self, held):
            self.held, self.kind = held, type(batches["custom_dpo"])

        row_tokens = (1,)

    def differ(one, other):
        return difference(contents(Own(one)), contents(Own(other)))

    assert differ(torch.tensor([1e-9, -2e-9]), torch.tensor([0.0, 3e-9])) == ""  # both are 0 but for rounding
    inf = float("-inf")
    assert differ(torch.tensor([inf, 1.0]), torch.tensor([inf, 1.0])) == ""
    assert differ(torch.tensor([inf, 1.0]), torch.tensor([1.0, inf])) == "held"
    assert differ([torch.ones(2)], [torch.zeros(2)]) == "held.0"
    assert differ(torch.eye(2).to_sparse(), torch.ones(2, 2).to_sparse()) == "held"
    half = torch.ones(2).to(torch.float8_e4m3fn)
    assert differ(half, half) == ""
