import torch
from transformers.cache_utils import DynamicLayer

from rlx.rollout.decoding.forward import PreallocatedLayer, make_cache
from tests.rollout.stand_in import model_of


def states(batch, length, *, seed):
    return torch.randn(batch, 2, length, 3, generator=torch.Generator().manual_seed(seed))


def test_a_layer_holds_what_a_growing_one_holds():
    ours, theirs = PreallocatedLayer(max_rows=9, max_new_tokens=200), DynamicLayer()
    for layer in (ours, theirs):
        layer.update(states(3, 5, seed=0), states(3, 5, seed=1))
    batch = 3
    for step in range(150):  # past the first block, past its doubling
        if step in (0, 2, 70, 100):
            generator = torch.Generator().manual_seed(step)
            rows = torch.randint(batch, (int(torch.randint(2, 10, (1,), generator=generator)),), generator=generator)
            ours.batch_select_indices(rows)
            theirs.batch_select_indices(rows)
            batch = len(rows)
        new = states(batch, 1, seed=10 + step), states(batch, 1, seed=1000 + step)
        for mine, other in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(mine, other)
        assert ours.get_seq_length() == theirs.get_seq_length() == 6 + step
    assert ours.get_mask_sizes(1) == theirs.get_mask_sizes(1)


def test_a_layer_grows_without_splitting():
    ours = PreallocatedLayer(max_rows=2, max_new_tokens=90)
    first = states(2, 3, seed=0)
    ours.update(first, first)
    for _ in range(90):
        keys, _ = ours.update(states(2, 1, seed=5), states(2, 1, seed=6))
    assert keys.shape == (2, 2, 93, 3)
    assert torch.equal(keys[:, :, :3], first)
    assert torch.equal(keys[:, :, 3:], states(2, 1, seed=5).expand(-1, -1, 90, -1))


def test_rows_that_stay_are_not_copied():
    ours = PreallocatedLayer(max_rows=4, max_new_tokens=8)
    ours.update(states(3, 5, seed=0), states(3, 5, seed=1))
    ours.batch_select_indices(torch.tensor([0, 1, 2, 1]))
    keys, _ = ours.update(states(4, 1, seed=2), states(4, 1, seed=3))
    written = keys._version
    ours.batch_select_indices(torch.tensor([0, 1, 2]))
    assert keys._version == written
    ours.batch_select_indices(torch.tensor([0, 2]))
    assert keys._version == written + 1
    after, _ = ours.update(states(2, 1, seed=2), states(2, 1, seed=3))
    assert after.data_ptr() == keys.data_ptr()


def test_a_model_with_a_recurrent_state_has_no_such_cache():
    assert make_cache(model_of("mamba"), max_rows=2, max_new_tokens=4) is None
    layers = make_cache(model_of("llama"), max_rows=2, max_new_tokens=4).layers
    assert [type(layer) for layer in layers] == [PreallocatedLayer] * 2
