import gzip
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest

from rlx.errors import DataError
from rlx.task import table
from rlx.task.table import column, file_hash, files_hash, find_file, find_files, read_rows


def test_jsonl_rows_come_with_their_line(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"x": 1}\n\n{"x": 2}\n')
    assert list(read_rows(file)) == [(f"{file}:1", {"x": 1}), (f"{file}:3", {"x": 2})]


def test_parquet_rows_are_those_of_jsonl(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "é"}], "chosen": "b"}, {"prompt": None, "chosen": "c"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [r for _, r in read_rows(tmp_path / "a.parquet")] == [r for _, r in read_rows(tmp_path / "a.jsonl")]


def test_columns_without_a_name_may_be_several(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,answer,,\n1,2,,\n")  # as spreadsheets write them
    (row,) = read_rows(tmp_path / "a.csv")
    assert row[1] == {"prompt": "1", "answer": "2"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"x": 1}\n{"x": ', r"a\.jsonl:2: this line is not JSON"),
        (b'{"x": 1}\n{"x": [{"y": "\\uD800"}]}', r"a\.jsonl:2: \\ud800 on this line is half of a surrogate pair"),
        (b'{"x": 1}\n[1, 2]\n', r"a\.jsonl:2: this line is a JSON list"),
        (b'{"x": 1}\n{"y": {"x": 1, "z": 2, "x": 3}}\n', r"a\.jsonl:2: this line has the key 'x' twice; leave one of them"),
        (b'[{"x": 1}]\n', r"a\.jsonl:1: this line is a JSON list.*write one row per line, for example by jq -c"),
        (b'[\n{"x": 1}\n]\n', r"a\.jsonl:1: this line is not JSON.*write one row per line, for example by jq -c"),
        (b'{"x": 1}\n{"x": "\xff"}\n', r"a\.jsonl:2: this line is not UTF-8"),
        (b'{"x": 1}\n{"x": ' + b"[" * 100_000, r"a\.jsonl:2: this line cannot be read: maximum recursion depth"),
        (b'{"x": 1}\n{"x": ' + b"9" * 5000 + b"}", r"a\.jsonl:2: this line cannot be read: Exceeds the limit"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "a.jsonl"))


def test_files_that_cannot_be_read_say_so(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    (tmp_path / "a.txt").write_text("x\n1\n")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read_rows(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match=r"not \.txt"):
        list(read_rows(tmp_path / "a.txt"))


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("{}")
    with pytest.raises(DataError, match=r"did you mean .*pairs\.jsonl"):
        find_file(str(tmp_path / "pair.jsonl"), key="task.path")
    with pytest.raises(DataError, match="is a directory"):
        find_file(str(tmp_path), key="task.path")
    with pytest.raises(DataError, match="/dev/null is not an ordinary file"):
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


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_name_is_neither_a_file_nor_the_working_directory(path, tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"x": 1}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"task\.path is empty"):
        find_files(path, key="task.path")


def test_a_missing_column_names_the_setting():
    with pytest.raises(DataError, match=r"did you mean task\.chosen_key=choosen"):
        column({"choosen": 1, "x": 2}, "chosen", place="f:1", setting="task.chosen_key")


def test_the_hash_is_of_the_content(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text("same")
    (tmp_path / "c").write_text("other")
    assert file_hash(tmp_path / "a") == file_hash(tmp_path / "b") != file_hash(tmp_path / "c")


ROWS = [{"prompt": "a, b", "n": str(n)} for n in range(5)]


def text_of(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_files_may_be_compressed_or_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(text_of(ROWS))
    with pyarrow.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as file:
        file.write(text_of(ROWS).encode())
    (tmp_path / "a.csv").write_text("prompt,n,empty\n" + "".join(f'"a, b",{n},\n' for n in range(5)))
    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.csv"):
        assert [row for _, row in read_rows(tmp_path / name)] == ROWS
    assert next(iter(read_rows(tmp_path / "a.csv")))[0] == f"{tmp_path / 'a.csv'}:2"
    for mark, name in ((";", "semicolons"), ("\t", "tabs")):
        (tmp_path / "b.csv").write_text(f"prompt{mark}n{mark}empty\n" + "".join(f"a, b{mark}{n}{mark}\n" for n in range(5)))
        assert [row for _, row in read_rows(tmp_path / "b.csv")] == ROWS
        (tmp_path / "b.csv").write_text(f"prompt{mark}n\na{mark}b{mark}c\n")
        with pytest.raises(DataError, match=rf"b\.csv:2: this row has more fields than the header; quote those with {name}"):
            list(read_rows(tmp_path / "b.csv"))
    (tmp_path / "b.csv").write_text("prompt\na,b\n")
    with pytest.raises(DataError, match=r"b\.csv:2: this row has more fields"):
        list(read_rows(tmp_path / "b.csv"))
    (tmp_path / "c.jsonl.gz").write_bytes((tmp_path / "a.jsonl.gz").read_bytes()[:30])
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "c.jsonl.zst").write_bytes(b"no zstd")
    for name in ("c.jsonl.gz", "d.jsonl.gz", "c.jsonl.zst"):
        with pytest.raises(DataError, match="cannot be unpacked"):
            list(read_rows(tmp_path / name))


def test_shards_patterns_and_splits(tmp_path):
    for split, count in (("train", 2), ("test", 1)):
        for number in range(count):
            (tmp_path / "data").mkdir(exist_ok=True)
            (tmp_path / "data" / f"{split}-{number:05}-of-{count:05}.jsonl").write_text(text_of(ROWS[:1]))
    (tmp_path / "README.md").write_text("no data")

    def names(path):
        return [file.name for file in find_files(str(path), key="task.path")]

    train = ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]
    assert names(tmp_path) == names(f"{tmp_path}:train") == names(tmp_path / "data" / "tr*") == train
    assert names(f"{tmp_path}:test") == ["test-00000-of-00001.jsonl"]
    assert names(tmp_path / "data" / train[0]) == train[:1]
    assert files_hash(find_files(f"{tmp_path}:test", key="k")) == file_hash(tmp_path / "data" / "test-00000-of-00001.jsonl")
    assert files_hash(find_files(str(tmp_path), key="k")) != file_hash(tmp_path / "data" / train[0])
    for wrong, message in ((f"{tmp_path}:dev", "no files of a split 'dev'"), (tmp_path / "*.csv", "no data file matches")):
        with pytest.raises(DataError, match=message):
            names(wrong)


def test_a_saved_directory_of_arrow_files(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "train").mkdir()
    table = pyarrow.Table.from_pylist(ROWS)
    place = str(tmp_path / "train" / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(place, "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "train" / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (file,) = find_files(str(tmp_path), key="task.path")
    assert [row for _, row in read_rows(file)] == ROWS


@pytest.mark.parametrize("half", ["\\ud83d", "\\uDe00"])
def test_half_of_a_surrogate_pair_is_refused_in_either_case(tmp_path, half):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "\\ud83d\\uDE00"}\n{"a": "' + half + '"}\n')
    rows = read_rows(path)
    assert next(rows)[1] == {"a": "😀"}
    with pytest.raises(DataError, match=r"a\.jsonl:2"):
        next(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a,b\n1,"2\n3,4\n5,6\n', r"a\.csv: after line \d this is not CSV.*are all quotes closed"),
        ("a,b,a\n1,2,3\n", r"a\.csv: two columns are called 'a'"),
    ],
    ids=["a quote that takes in the rows after it", "a column twice"],
)
def test_a_table_that_would_lose_values_is_refused(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_rows(tmp_path / "a.csv"))


def test_columns_of_one_name_are_refused_in_parquet_too(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["1"]), pyarrow.array(["2"])], names=["a", "a"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: two columns are called 'a'"):
        list(read_rows(tmp_path / "a.parquet"))


def test_a_field_of_a_table_may_be_long(tmp_path):
    text = "long " * 50_000
    (tmp_path / "a.csv").write_text(f"a,b\n1,{text}\n")
    assert [row["b"] for _, row in read_rows(tmp_path / "a.csv")] == [text]


HEAD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: socratic
  data_files:
  - {split: train, path: socratic/train-*}
---
# A data set
"""


def mirror(folder, *, readme=HEAD, configs=("main", "socratic")):
    """A directory with the layout of the hub."""
    for config in configs:
        for split in ("train", "test"):
            file = folder / config / f"{split}-00000-of-00001.jsonl"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"question": f"{config} {split}", "answer": "#### 1"}) + "\n")
    if readme:
        (folder / "README.md").write_text(readme)
    return folder


def questions(path):
    return [row["question"] for file in find_files(str(path), key="task.path") for _, row in read_rows(file)]


def test_a_mirror_of_the_hubs_layout_has_its_configurations_and_splits(tmp_path):
    pytest.importorskip("datasets")
    folder = mirror(tmp_path / "gsm8k")
    assert questions(f"{folder}:main") == questions(f"{folder}:main:train") == ["main train"]
    assert questions(f"{folder}:main:test") == ["main test"]
    assert questions(f"{folder}:socratic") == ["socratic train"]
    for wrong, message in (
        ("", "has the configurations main, socratic; name one of them: task.path=.*gsm8k:main"),
        (":test", "name one of them: task.path=.*gsm8k:main:test"),
        (":other:train", "not other; name one of them"),
        (":socratic:test", "has no split 'test', only train"),
    ):
        with pytest.raises(DataError, match=message):
            questions(f"{folder}{wrong}")


def test_a_directory_without_a_list_of_configurations_never_mixes_splits(tmp_path):
    folder = mirror(tmp_path / "hh", readme="", configs=("harmless", "helpful"))
    assert questions(folder) == ["harmless train", "helpful train"]
    assert questions(f"{folder}:helpful") == questions(f"{folder}:helpful:train") == ["helpful train"]
    assert questions(f"{folder}:helpful:test") == ["helpful test"]
    assert questions(f"{folder}:test") == ["harmless test", "helpful test"]


@pytest.fixture
def on_the_hub(monkeypatch, tmp_path):
    """A package datasets that knows owner/sums and words; files are downloaded into a folder."""
    local = mirror(tmp_path / "cache", readme="")
    remote = "hf://datasets/owner/sums@abc/main/{}-00000-of-00001.jsonl"
    asked = []

    def builder(name, config):
        asked.append((name, config))
        return SimpleNamespace(config=SimpleNamespace(data_files={split: [remote.format(split)] for split in ("train", "test")}))

    def names(name):
        if name not in ("owner/sums", "words"):
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nand more")
        return ["main", "socratic"] if name == "owner/sums" else ["default"]

    def download(repository, path, *, repo_type, revision):
        assert (repository, repo_type, revision) == ("owner/sums", "dataset", "abc")
        return str(local / path)

    fake = SimpleNamespace(get_dataset_config_names=names, load_dataset_builder=builder)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("rlx.task.table.hub_unreached", str)
    monkeypatch.chdir(tmp_path)
    return asked


def test_what_is_no_path_is_a_name_of_the_hub(on_the_hub):
    assert questions("owner/sums:main:test") == ["main test"]
    assert questions("words") == questions("words:train") == ["main train"]
    assert on_the_hub == [("owner/sums", "main"), ("words", "default"), ("words", "default")]
    with pytest.raises(
        DataError, match=r"no file nobody, and the Hugging Face hub gives no such data set \(Couldn't reach 'nobody' "
    ):
        questions("nobody")


def test_a_hub_that_is_not_reached_is_asked_once_and_said(on_the_hub, monkeypatch):
    from huggingface_hub import constants

    def offline(name):
        assert constants.HF_HUB_OFFLINE  # what is here is read, and nothing retried
        raise ConnectionError(f"Couldn't reach {name!r}")

    monkeypatch.setattr("rlx.task.table.hub_unreached", lambda: "no route")
    assert questions("owner/sums:main:test") == ["main test"]
    monkeypatch.setattr(sys.modules["datasets"], "get_dataset_config_names", offline)
    with pytest.raises(DataError, match=r"no file nobody, and the Hugging Face hub cannot be reached \(no route\)"):
        questions("nobody")
    assert not constants.HF_HUB_OFFLINE


def test_a_file_that_is_meant_here_is_not_looked_for_on_the_hub(on_the_hub, tmp_path):
    (tmp_path / "pairs").write_text("")
    (tmp_path / "words.jsonl").write_text("")
    for path, message in (("pears", "did you mean pairs"), ("word.jsonl", "did you mean words.jsonl"), ("cache/no", "no file")):
        with pytest.raises(DataError, match=message):
            questions(path)
    assert on_the_hub == []


def test_without_the_package_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no file owner/sums, .* pip install 'rlx\[datasets\]'"):
        questions("owner/sums")
    assert table.is_mirror(mirror(tmp_path / "gsm8k"))
    assert not table.is_mirror(mirror(tmp_path / "hh", readme="# only text\nconfigs: none\n"))


def test_a_directory_that_cannot_be_searched_is_said(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text("{}")

    def refuse(file):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("rlx.task.table._is_data", refuse)
    with pytest.raises(DataError, match=r"task\.path: the directory .* cannot be searched: .*Permission denied"):
        find_files(str(tmp_path), key="task.path")
