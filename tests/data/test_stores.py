import contextlib
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from rlx.data.stores import TensorStore

NAME, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
CONTENT = {
    "values": torch.rand(7, generator=torch.Generator().manual_seed(0)),
    "lengths": torch.tensor([3, 4]),
    "none": torch.zeros(0, dtype=torch.int32),
}


def same(first, second):
    return first is not None and first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in second)


def test_what_is_written_is_read_bit_by_bit(tmp_path):
    TensorStore(tmp_path / "a" / "b", "values").write(NAME, CONTENT)
    assert same(TensorStore(tmp_path / "a" / "b", "values").read(NAME), CONTENT)
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1
    assert TensorStore(tmp_path / "a" / "b", "values").read(OTHER) is None


def test_without_a_folder_nothing_is_kept():
    store = TensorStore(None, "values")
    store.write(NAME, CONTENT)
    assert store.read(NAME) is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_said_ignored_and_replaced(tmp_path, caplog, damage):
    store = TensorStore(tmp_path, "values")
    store.write(NAME, CONTENT)
    path = store.path(NAME)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    path.write_bytes({"cut": content[:-7], "flip": content, "empty": b"", "other": b"not a tensor file at all"}[damage])
    with caplog.at_level(logging.WARNING, logger="rlx"):
        assert store.read(NAME) is None
        assert store.read(NAME) is None
    assert caplog.text.count("are damaged") == 1
    store.write(NAME, CONTENT)
    assert same(store.read(NAME), CONTENT)


def test_two_files_that_were_exchanged_are_damaged(tmp_path, caplog):
    store = TensorStore(tmp_path, "values")
    for name, value in ((NAME, 1.0), (OTHER, 2.0)):
        store.write(name, {"a": torch.tensor([value])})
    one, two = store.path(NAME), store.path(OTHER)
    one.rename(tmp_path / "kept")
    two.rename(one)
    (tmp_path / "kept").rename(two)
    assert TensorStore(tmp_path, "values").read(NAME) is None
    assert TensorStore(tmp_path, "values").read(OTHER) is None
    assert caplog.text.count("are damaged") == 2


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = TensorStore(tmp_path / "file" / "folder", "values")
    with caplog.at_level(logging.WARNING, logger="rlx"):
        store.write(NAME, CONTENT)
        store.write(NAME, CONTENT)
    assert len(caplog.records) == 1
    assert "cannot be cached" in caplog.text
    assert store.read(NAME) is None


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    TensorStore(tmp_path, "values").write(NAME, CONTENT)
    assert not list(tmp_path.iterdir())
    assert "No space left" in caplog.text


def test_many_writers_and_readers_see_whole_files_only(tmp_path):
    def work(number):
        store = TensorStore(tmp_path, "values")
        for _ in range(10):
            store.write(NAME, CONTENT)
            if not same(store.read(NAME), CONTENT):
                return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert len(list(tmp_path.iterdir())) == 1


@contextlib.contextmanager
def another_process(does):
    """A process that claims the name, says so, and goes on with `does`; it is killed in the end."""
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
        with TensorStore(folder, "values").claim(NAME, wait=False) as is_mine:
            assert is_mine
            tell()
            time.sleep(seconds)

    return does


def test_a_file_that_another_process_computes_is_left_to_it(tmp_path):
    store = TensorStore(tmp_path, "values")
    with another_process(holding(tmp_path, 60)):
        with store.claim(NAME, wait=False) as is_mine:
            assert not is_mine
        with store.claim(OTHER, wait=False) as is_mine:
            assert is_mine


def test_one_that_waits_goes_on_when_the_other_is_done_or_killed(tmp_path):
    with another_process(holding(tmp_path, 0.5)):
        before = time.monotonic()
        with TensorStore(tmp_path, "values").claim(NAME, wait=True) as is_mine:
            assert is_mine
        assert 0.2 < time.monotonic() - before < 20
    with another_process(holding(tmp_path, 60)) as child:
        threading.Timer(0.3, os.kill, (child, signal.SIGKILL)).start()
        before = time.monotonic()
        with TensorStore(tmp_path, "values").claim(NAME, wait=True) as is_mine:
            assert is_mine
        assert 0.1 < time.monotonic() - before < 20


def test_nobody_waits_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("rlx.data.stores._PATIENCE", 0.3)
    with another_process(holding(tmp_path, 60)), TensorStore(tmp_path, "values").claim(NAME, wait=True) as is_mine:
        assert is_mine


def test_without_a_place_every_process_computes(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (None, tmp_path / "file" / "folder"):
        with TensorStore(folder, "values").claim(NAME, wait=False) as is_mine:
            assert is_mine
