import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rlx.errors import DataError
from rlx.task.table import column, file_hash, find_file, read_rows


def test_jsonl_rows_come_with_their_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"x": 1}\n\n{"x": 2}\n')
    assert list(read_rows(file)) == [(f"{file}:1", {"x": 1}), (f"{file}:3", {"x": 2})]


def test_parquet_rows_are_those_of_jsonl(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "é"}], "chosen": "b"}, {"prompt": None, "chosen": "c"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [r for _, r in read_rows(tmp_path / "a.parquet")] == [r for _, r in read_rows(tmp_path / "a.jsonl")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x": 1}\n{"x": ', r"a\.jsonl:2: this line is not JSON"),
        (b'{"x": 1}\n{"x": [{"y": "\\uD800"}]}', r"a\.jsonl:2: \\ud800 on this line is half of a surrogate pair"),
        (b'{"x": 1}\n[1, 2]\n', r"a\.jsonl:2: this line is a JSON list"),
        (b'{"x": 1}\n{"x": "\xff"}\n', r"a\.jsonl:2: this line is not UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "a.jsonl"))


def test_files_that_cannot_be_read_say_so(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "a.csv").write_text("x\n1\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_rows(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"not \.csv"):
        list(read_rows(tmp_path / "a.csv"))


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean .*pairs\.jsonl"):
        find_file(str(tmp_path / "pair.jsonl"), key="task.path")
    with pytest.raises(DataError, match="is a directory"):
        find_file(str(tmp_path), key="task.path")
    with pytest.raises(DataError, match="/dev/null is no ordinary file"):
        find_file("/dev/null", key="task.path")


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    (tmp_path / "pairs.jsonl").write_text("{}")

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    for name in ("open", "is_file"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, denied)
            with pytest.raises(DataError, match=r"pairs\.jsonl cannot be read: Permission denied"):
                find_file(str(tmp_path / "pairs.jsonl"), key="task.path")


def test_what_json_escapes_is_read_and_a_byte_order_mark_passed_over(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"x": "\\ud83d\\ude00"}\r\n \n{"x": "\\\\ud800"}\n')
    assert [row["x"] for _, row in read_rows(tmp_path / "a.jsonl")] == ["\U0001f600", "\\ud800"]


def test_an_empty_name_is_no_file():
    with pytest.raises(DataError, match=r"task\.path is empty"):
        find_file(" ", key="task.path")


def test_a_missing_column_names_the_setting():
    with pytest.raises(DataError, match=r"did you mean task\.chosen_key=choosen"):
        column({"choosen": 1, "x": 2}, "chosen", place="f:1", setting="task.chosen_key")


def test_the_hash_is_of_the_content(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("same")
    (tmp_path / "c").write_text("other")
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")
