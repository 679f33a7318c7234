import contextlib
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rlx.data.sequences import Sequences
from rlx.policy.reference_store import ReferenceStore, arithmetic_of
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


def test_without_a_folder_nothing_is_kept():
    store = ReferenceStore(None, "cpu")
    store.write(BLOCK, VALUES)
    assert store.read(BLOCK) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_said_ignored_and_replaced(tmp_path, caplog, damage):
    store = ReferenceStore(tmp_path, "cpu")
    store.write(BLOCK, VALUES)
    path = store.path(BLOCK)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes({"cut": content[:-7], "flip": content, "empty": b"", "other": b"not a tensor file at all"}[damage])
    with caplog.at_level(logging.WARNING, logger="rlx"):
        assert store.read(BLOCK) is None
    assert "damaged" in caplog.text
    store.write(BLOCK, VALUES)
    assert torch.equal(store.read(BLOCK), VALUES)


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = ReferenceStore(tmp_path / "file" / "folder", "cpu")
    with caplog.at_level(logging.WARNING, logger="rlx"):
        store.write(BLOCK, VALUES)
        store.write(BLOCK, VALUES)
    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text
    assert store.read(BLOCK) is None


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    ReferenceStore(tmp_path, "cpu").write(BLOCK, VALUES)
    assert not list(tmp_path.iterdir())
    assert "No space left" in caplog.text


def test_many_writers_and_readers_see_whole_blocks_only(tmp_path):
    def work(number):
        store = ReferenceStore(tmp_path, "cpu")
        for _ in range(10):
            store.write(BLOCK, VALUES)
            found = store.read(BLOCK)
            if found is None or not torch.equal(found, VALUES):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(list(tmp_path.iterdir())) == 1


def test_what_decides_the_rounding_is_named():
    text = arithmetic_of(torch.device("cpu"), layout="plain")
    assert torch.__version__ in text
    assert f"{torch.get_num_threads()} threads" in text
    assert "plain" in text


@contextlib.contextmanager
def another_process(does):
    """A process that claims the block, says so, and goes on with `does`; it is killed in the end."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            does(lambda: os.write(writes, b"+"))
        finally:
            os._exit(0)
    try:
        assert os.read(reads, 1) == b"+"
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reads)
        os.close(writes)


def holding(folder, seconds):
    def does(tell):
        with ReferenceStore(folder, "cpu").claim(BLOCK, wait=False) as is_mine:
            assert is_mine
            tell()
            time.sleep(seconds)

    return does


def test_a_block_that_another_process_computes_is_left_to_it(tmp_path):
    store, other = ReferenceStore(tmp_path, "cpu"), sequences_of(num_prompts=4, group_size=2, seed=1)
    with another_process(holding(tmp_path, 60)):
        with store.claim(BLOCK, wait=False) as is_mine:
            assert not is_mine
        with store.claim(other, wait=False) as is_mine:
            assert is_mine


def test_one_that_waits_goes_on_when_the_other_is_done_or_killed(tmp_path):
    with another_process(holding(tmp_path, 0.5)):
        before = time.monotonic()
        with ReferenceStore(tmp_path, "cpu").claim(BLOCK, wait=True) as is_mine:
            assert is_mine
        assert 0.2 < time.monotonic() - before < 20
    with another_process(holding(tmp_path, 60)) as child:
        threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
        before = time.monotonic()
        with ReferenceStore(tmp_path, "cpu").claim(BLOCK, wait=True) as is_mine:
            assert is_mine
        assert 0.1 < time.monotonic() - before < 20


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("rlx.policy.reference_store._PATIENCE", 0.3)
    with another_process(holding(tmp_path, 60)), ReferenceStore(tmp_path, "cpu").claim(BLOCK, wait=True) as is_mine:
        assert is_mine


def test_without_a_place_every_process_computes(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "folder"):
        with ReferenceStore(folder, "cpu").claim(BLOCK, wait=False) as is_mine:
            assert is_mine
