import pytest
import torch
from transformers.cache_utils import DynamicLayer

from rlx.rollout.cache import PreallocatedLayer, make_cache, rows_to_keep
from tests.rollout.stand_in import model_of


def states(batch, length, *, seed):
    return torch.randn(batch, 2, length, 3, generator=torch.Generator().manual_seed(seed))


def test_a_layer_holds_what_a_growing_one_holds():
    ours, theirs = PreallocatedLayer(max_new_tokens=200), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(states(3, 5, seed=0), states(3, 5, seed=1))
        layer.batch_repeat_interleave(2)
    batch = 6
    for step in range(150):  # past the first block, past its doubling
        if step in (2, 70, 100):
            active = torch.rand(batch, generator=torch.Generator().manual_seed(step)) < 0.7
            keep = rows_to_keep(active)
            ours.batch_select_indices(keep)
            theirs.batch_select_indices(keep)
            batch = len(keep)
        new = states(batch, 1, seed=10 + step), states(batch, 1, seed=1000 + step)
        for mine, other in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length() == 6 + step
    assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_only_what_is_filled_is_attended_to():
    layer = PreallocatedLayer(max_new_tokens=50)
    layer.update(states(1, 4, seed=0), states(1, 4, seed=1))
    layer.batch_repeat_interleave(3)
    keys, values = layer.update(states(3, 1, seed=2), states(3, 1, seed=3))
    assert keys.shape == values.shape == (3, 2, 5, 3)


@pytest.mark.parametrize("pattern", ["1111", "0111", "1110", "0101", "1000", "0001"])
def test_rows_that_stay_move_only_into_holes(pattern):
    active = torch.tensor([letter == "1" for letter in pattern])
    keep = rows_to_keep(active).tolist()
    assert sorted(keep) == [row for row, stays in enumerate(active.tolist()) if stays]
    assert all(row == place or row >= len(keep) for place, row in enumerate(keep))


def test_a_model_with_a_recurrent_state_has_no_such_cache():
    assert make_cache(model_of("mamba"), max_new_tokens=4) is None
    layers = make_cache(model_of("llama"), max_new_tokens=4).layers
    assert [type(layer) for layer in layers] == [PreallocatedLayer] * 2
