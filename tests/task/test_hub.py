import json
import sys
from types import SimpleNamespace

import pytest

from rlx.errors import DataError
from rlx.task import hub
from rlx.task.table import find_files, read_rows

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
    assert hub.is_mirror(mirror(tmp_path / "gsm8k"))
    assert not hub.is_mirror(mirror(tmp_path / "hh", readme="# only text\nconfigs: none\n"))
