"""Rows that continue one prompt attend to one copy of its keys and values; the numbers are those of a copy a row."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from rlx.rollout.decoding.llama import LlamaForward
from rlx.rollout.decoding.shared_prompts import SharedPrompts, shares_prompts
from tests.rollout.stand_in import model_of


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("mask", [None, (0, 2, 1)], ids=["equal", "ragged"])
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 2, 2, 1, 0], [1, 1, 1], [2, 0, 2]])
def test_attention_is_that_over_a_prompt_and_own_tokens_in_one_row(rows, mask):
    keys, values = drawn(3, 2, 5, 4), drawn(3, 2, 5, 4) + 1
    hidden = torch.zeros(3, 1, 1, 5)
    for prompt, padding in enumerate(mask or ()):
        hidden[prompt, ..., :padding] = torch.finfo(torch.float32).min
    shared = SharedPrompts([(keys, values)], hidden if mask else None)
    shared.select(torch.tensor(rows))
    query, own_keys, own_values = drawn(len(rows), 2, 3, 4), drawn(len(rows), 2, 6, 4), drawn(len(rows), 2, 6, 4) - 1
    found = shared.attend(0, query, own_keys, own_values, 0.5)
    whole = [torch.cat([prompt[rows], own], dim=2) for prompt, own in ((keys, own_keys), (values, own_values))]
    seen = torch.cat([hidden[rows], torch.zeros(len(rows), 1, 1, 6)], dim=-1)
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, *whole, attn_mask=seen, scale=0.5))


def test_scores_that_would_overflow_are_joined_by_the_larger():
    shared = SharedPrompts([(torch.full((1, 1, 2, 1), 200.0), torch.ones(1, 1, 2, 1))], None)
    found = shared.attend(0, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), -200.0), torch.zeros(1, 1, 1, 1), 1.0)
    assert found.item() == 1.0


def test_prompts_that_no_row_continues_are_given_up_once_they_are_half():
    keys = drawn(4, 1, 3, 2)
    shared = SharedPrompts([(keys, keys)], None)
    shared.select(torch.tensor([0, 1, 3]))
    assert len(shared.layers[0][0]) == 4
    shared.select(torch.tensor([2, 0, 2]))
    assert torch.equal(shared.layers[0][0], keys[[0, 3]])
    assert shared.of_row.tolist() == [1, 0, 1]
    assert torch.equal(shared.states(0, 0)[0], keys[3])


def test_what_is_kept_of_a_row_is_what_a_row_of_its_own_holds():
    model, draw = model_of("llama"), np.random.default_rng(1)
    prompts = [draw.integers(0, 41, size) for size in (4, 7)]
    apart, shared = (LlamaForward(model, shares_prompts=shares) for shares in (False, True))
    with torch.no_grad():
        for forward in (apart, shared):
            forward.start(prompts, max_rows=8, max_new_tokens=4)
        torch.testing.assert_close(shared.states(0), apart.states(0))
        for parents, tokens in (([0, 1, 1], [3, 4, 5]), ([2, 0], [6, 7]), ([0, 1], [8, 9])):
            for forward in (apart, shared):
                forward.step(torch.tensor(parents), torch.tensor(tokens))
        for row, length in ((0, 7 + 3), (1, 4 + 3)):
            assert shared.states(row).shape[-2] == length
            torch.testing.assert_close(shared.states(row), apart.states(row))


def test_a_prompt_is_held_once_for_all_of_its_rows():
    model = model_of("llama")
    forward = LlamaForward(model)
    with torch.no_grad():
        forward.start([np.arange(40)], max_rows=8, max_new_tokens=2)
        forward.step(torch.zeros(8, dtype=torch.int64), torch.arange(8))
    assert forward.shared.layers[0][0].shape[:3:2] == (1, 40)
    assert forward.cache[0].states(7)[0].shape[1] == 1


@pytest.mark.parametrize(
    ("prompts", "rows", "length", "shares"), [(2, 8, 32, True), (2, 7, 32, False), (2, 8, 31, False), (1, 1, 400, False)]
)
def test_prompts_are_shared_where_many_rows_continue_long_ones(prompts, rows, length, shares):
    assert shares_prompts(prompts, rows, length) is shares
