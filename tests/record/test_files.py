"""What is written is whole, standard JSON, and explained when the disk refuses it."""

import enum
import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlx.errors import DataError, TrainingError
from rlx.record import files
from rlx.record.files import (
    Appender,
    follow_latest,
    json_line,
    json_value,
    link_latest,
    number,
    prompt_text,
    read_metrics,
    read_regular,
    read_samples,
    read_tail,
    relative,
    write_atomic,
    write_new,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


@settings(deadline=None)
@given(VALUES)
def test_every_value_becomes_one_line_of_standard_json(value: object) -> None:
    line = json_line(value)
    assert line.endswith(b"\n")
    assert len(line.splitlines()) == 1
    assert len(line.decode("ascii").splitlines()) == 1
    json.loads(line, parse_constant=refuse_constant)


@settings(deadline=None)
@given(st.floats())
def test_a_float_comes_back_as_it_was(value: float) -> None:
    back = number(json.loads(json_line(value)))
    assert back == value or (math.isnan(back) and math.isnan(value))


def test_values_of_other_libraries_are_plain() -> None:
    class Kind(enum.Enum):
        PAIRS = 7

    assert json_value({"a": np.float32(0.5), 1: (np.int64(3), Kind.PAIRS), "p": Path("x/y"), "s": {2, 1}}) == {
        "a": 0.5,
        "1": [3, "PAIRS"],
        "p": "x/y",
        "s": [1, 2],
    }
    assert json_value(np.array([math.nan, 1.0])) == ["NaN", 1.0]


def test_replacing_a_file_fails_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_atomic(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            write_atomic(file, "new")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def refuse(*paths: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(files.os, "link", refuse)
    write_new(tmp_path / "a", "first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("links", [True, False])
def test_latest_names_the_newest_where_there_are_links_and_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*paths: object, **options: object) -> None:
            raise OSError(errno.EPERM, "no symbolic links here")

        monkeypatch.setattr(files.os, "symlink", refuse)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
        link_latest(tmp_path / name, tmp_path / "latest")
        assert follow_latest(tmp_path / "latest") == tmp_path / name
    assert sorted(os.listdir(tmp_path)) == ["latest", "one", "two"]


def test_a_directory_that_somebody_calls_latest_stays(tmp_path: Path) -> None:
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "mine").touch()
    link_latest(tmp_path, tmp_path / "latest")
    assert os.listdir(tmp_path) == ["latest"]
    assert os.listdir(tmp_path / "latest") == ["mine"]


def test_a_full_disk_is_named_with_its_mend(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    lines = Appender(tmp_path / "metrics.jsonl")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: the disk is full; free some space, or .*output_dir"):
        lines.append(b"{}\n")
    lines.close()
    lines.close()


def test_a_line_that_the_disk_takes_in_part_is_cut_off_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Appender(tmp_path / "metrics.jsonl")
    lines.append(b'{"step": 0}\n')
    write = os.write
    room = [5]

    def nearly_full(descriptor: int, data: memoryview) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "no space")
        return write(descriptor, data[: room.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", nearly_full)
        with pytest.raises(TrainingError):
            lines.append(b'{"step": 1}\n')
    lines.append(b'{"step": 2}\n')
    lines.close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 0}\n{"step": 2}\n'


def test_a_directory_is_shown_as_people_type_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "outputs" / "x") == "outputs/x"
    assert relative(tmp_path.parent / "y") == str(tmp_path.parent / "y")


def test_a_directory_or_a_device_is_not_replaced_by_a_file(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="not an ordinary file"):
        write_atomic(tmp_path / "pipe", "x")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "pipe").unlink()
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path):
        with pytest.raises(IsADirectoryError):
            write_atomic(place, "x")
    assert list(tmp_path.iterdir()) == []


# What a run logged is read as it was written, or refused with its place.


def test_the_cut_last_line_is_left_out_at_every_place(run: Path) -> None:
    file = run / "metrics.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, len(whole) - 1) + 1
    for end in range(last, len(whole) - 1):
        file.write_bytes(whole[:end])
        assert [line["step"] for line in read_metrics(run)] == [0, 1]
    file.write_bytes(whole[:last] + b"\0" * 40)
    assert len(read_metrics(run)) == 2


@pytest.mark.parametrize("line", ["rubbish", "[1]", '{"loss": 1}', '{"step": "1"}', '{"step": 1'])
def test_a_damaged_line_inside_is_named(run: Path, line: str) -> None:
    (run / "metrics.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2"):
        read_metrics(run)


def test_what_is_larger_than_rlx_writes_is_named_and_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(run / "metrics.jsonl", 2 << 30)  # without a byte of the disk
    with pytest.raises(OSError, match="larger than any that rlx writes"):
        read_regular(run / "metrics.jsonl")
    monkeypatch.setattr("rlx.record.files._LONGEST", 1 << 19)
    with pytest.raises(DataError, match=r"metrics\.jsonl: a line after line 1 is longer"):
        read_metrics(run)


def test_metrics_that_are_not_finite_come_back(create) -> None:
    recorder = create()
    recorder.log(0, {"a": math.nan, "b": math.inf, "c": -math.inf})
    recorder.samples(0, [{"completion": "NaN"}])
    (line,) = read_metrics(recorder.directory)
    assert math.isnan(line["a"])
    assert (line["b"], line["c"]) == (math.inf, -math.inf)
    assert read_samples(recorder.directory) == [{"step": 0, "completion": "NaN"}]
    recorder.interrupt()


def test_a_prompt_of_plain_messages_is_lines_and_any_other_stays() -> None:
    assert prompt_text([{"role": "user", "content": "Hi"}]) == "user: Hi"
    call = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}]
    for kept in ("12+34=", call, [], None):
        assert prompt_text(kept) is kept


def test_a_run_that_has_written_no_metrics_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    with pytest.raises(DataError, match="no such run directory"):
        read_metrics(tmp_path / "absent")


def test_the_tail_is_the_end_of_the_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b"".join(files.json_line({"step": step, "x": "y" * (step % 50)}) for step in range(500)))
    whole = read_metrics(tmp_path)
    for size in (1, 60, 100, 1000, 10**6):
        tail = read_tail(file, size)
        assert tail == whole[len(whole) - len(tail) :]
    assert read_tail(file, 1000)[-1]["step"] == 499
