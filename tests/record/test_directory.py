"""A run's directory is nobody else's."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlx.errors import ConfigError, DataError
from rlx.record.directory import hold, last_step, new_directory, truncate_lines


def test_many_that_ask_for_one_name_each_get_their_own(tmp_path: Path) -> None:
    barrier = threading.Barrier(16)

    def ask(_: int) -> Path:
        barrier.wait()
        return new_directory(tmp_path / "outputs", "same")

    with ThreadPoolExecutor(16) as pool:
        directories = list(pool.map(ask, range(16)))
    assert len(set(directories)) == 16
    assert all(directory.is_dir() for directory in directories)


def test_lines_after_a_step_are_cut_and_so_is_a_broken_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\n{"step": 1}\n{"step": 1, "more": 1}\n{"step": 2}\n{"st')
    assert last_step(file) == 2
    truncate_lines(file, 1)
    assert file.read_text() == '{"step": 0}\n{"step": 1}\n{"step": 1, "more": 1}\n'
    truncate_lines(file, 7)
    assert last_step(file) == 1
    file.write_text('{"step": 0}\n{"step": 1')
    truncate_lines(file, 1)
    assert file.read_text() == '{"step": 0}\n'
    truncate_lines(file, -1)
    assert file.read_text() == ""
    assert last_step(file) == -1
    truncate_lines(tmp_path / "absent", 3)
    assert not (tmp_path / "absent").exists()


def test_damage_before_the_step_is_named(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0}\nrubbish\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        truncate_lines(file, 2)


def test_a_directory_is_held_by_one(tmp_path: Path) -> None:
    import os

    first = hold(tmp_path)
    if first is None:
        pytest.skip("no locks on directories here")
    with pytest.raises(ConfigError, match="another process is writing"):
        hold(tmp_path)
    os.close(first)
    second = hold(tmp_path)
    assert second is not None
    os.close(second)
