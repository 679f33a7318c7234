import numpy as np
import torch

from rlx.data.sequences import Sequences
from rlx.policy.reference import ReferenceStore, arithmetic_of
from tests.policy.models import sequences_of

BLOCK = sequences_of(num_prompts=4, group_size=2)
VALUES = -torch.rand(int(BLOCK.completion_lengths.sum()), generator=torch.Generator().manual_seed(0))


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    ReferenceStore(tmp_path / "a" / "b", "cpu").write(BLOCK, VALUES)
    assert torch.equal(ReferenceStore(tmp_path / "a" / "b", "cpu").read(BLOCK), VALUES)
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_other_tokens_other_boundaries_and_other_arithmetic_are_other_files(tmp_path):
    store = ReferenceStore(tmp_path, "1 thread")
    store.write(BLOCK, VALUES)
    assert ReferenceStore(tmp_path, "2 threads").read(BLOCK) is None
    assert store.read(sequences_of(num_prompts=4, group_size=2, seed=1)) is None
    assert store.read(BLOCK[:3]) is None
    # The same tokens in the same order, cut elsewhere.
    one, two = np.array([5]), np.array([5, 5])
    store.write(Sequences((one,), ((two, one),)), VALUES[:3])
    assert store.read(Sequences((two,), ((one, one),))) is None
    assert store.path(Sequences((one,), ((two, one),))) != store.path(Sequences((one,), ((one, two),)))


def test_what_decides_the_rounding_is_named():
    text = arithmetic_of(torch.device("cpu"), layout="plain")
    assert torch.__version__ in text
    assert f"{torch.get_num_threads()} threads" in text
    assert "plain" in text


def test_without_a_folder_nothing_is_kept():
    store = ReferenceStore(None, "cpu")
    store.write(BLOCK, VALUES)
    assert store.read(BLOCK) is None
    with store.claim(BLOCK, wait=False) as is_mine:
        assert is_mine


def test_a_claim_is_of_one_block(tmp_path):
    store, other = ReferenceStore(tmp_path, "cpu"), sequences_of(num_prompts=4, group_size=2, seed=1)
    with store.claim(BLOCK, wait=False) as first, store.claim(other, wait=False) as second:
        assert first
        assert second
    assert store.path(BLOCK) != store.path(other)


def test_values_of_other_tokens_under_its_name_are_said_and_not_read(tmp_path, caplog):
    store = ReferenceStore(tmp_path, "cpu")
    store.write(BLOCK, VALUES[:-1])
    assert store.read(BLOCK) is None
    assert "of other tokens" in caplog.text
